"""Counters of the engine, and of each release that answered, as Prometheus reads them."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openledger.flows.money.infer.meter import Answered
from openledger.serving.engine import Stats

_GAUGES = {
    "waiting": "Requests in the queue",
    "active": "Answers being made",
    "paused": "Answers whose reader is slow",
    "kv_blocks": "Blocks of the KV cache",
    "kv_blocks_used": "Blocks of the KV cache that answers at work use",
    "kv_blocks_idle": "Blocks of the KV cache that are kept as prefixes only",
    "resident_adapters": "Adapters in memory",
    "resident_bytes": "Memory of all resident adapters",
}
_COUNTERS = {
    "rejected": "Requests refused because the engine was full",
    "prompt_tokens": "Prompt tokens of finished requests",
    "cached_tokens": "Of the prompt tokens, those found in the KV cache",
    "completion_tokens": "Tokens made by finished requests",
    "steps": "Engine steps of finished requests",
    "broken_batches": "Steps that failed and were run again row by row",
    "prefill_s": "Seconds spent reading prompts",
    "decode_s": "Seconds spent making tokens",
    "adapter_loads": "Adapters read from disk",
    "adapter_hits": "Uses of an adapter that was resident",
    "adapter_evictions": "Adapters dropped to make room",
    "adapter_load_s": "Seconds spent reading adapters",
}
_RELEASE_COUNTERS = {
    "answers": "Answers that a release gave, alone or in a mix",
    "mixed_answers": "Of the answers, those given with other releases",
    "input_tokens": "Prompt tokens of its answers",
    "output_tokens": "Tokens of its answers that callers took",
}


def exposition(stats: Stats, releases: Mapping[str, Answered]) -> bytes:
    """The text format; `releases` by name."""
    registry = CollectorRegistry()
    registry.register(_Engine(stats))
    registry.register(_Releases(releases))
    return generate_latest(registry)


class _Engine(Collector):
    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        for field, text in _GAUGES.items():
            yield GaugeMetricFamily(_name(field), text, value=getattr(self._stats, field))
        for field, text in _COUNTERS.items():
            yield CounterMetricFamily(_name(field), text, value=getattr(self._stats, field))
        batches = CounterMetricFamily(
            _name("batches"), "Steps by rows, up to this many", labels=["rows"]
        )
        for rows, count in sorted(self._stats.batches.items()):
            batches.add_metric([str(rows)], count)
        yield batches
        finished = CounterMetricFamily(_name("finished"), "Ended requests", labels=["finish"])
        for finish, count in self._stats.finished.items():
            finished.add_metric([finish], count)
        yield finished


class _Releases(Collector):
    def __init__(self, releases: Mapping[str, Answered]) -> None:
        self._releases = sorted(releases.items())

    def collect(self) -> Iterable[Metric]:
        for field, text in _RELEASE_COUNTERS.items():
            family = CounterMetricFamily(f"openledger_release_{field}", text, labels=["release"])
            for name, answered in self._releases:
                family.add_metric([name], getattr(answered, field))
            yield family


def _name(field: str) -> str:
    stem = f"{field.removesuffix('_s')}_seconds" if field.endswith("_s") else field
    return f"openledger_engine_{stem}"
