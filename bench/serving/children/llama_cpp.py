"""llama.cpp's server in the process of `xllamacpp`, its requests made by threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xllamacpp

from bench.serving.children.loop import Setup, conversation, read_setup, serve

_BATCH = 1_024  # tokens; all prompts of a cell at once

Reply = dict[str, Any]  # as the server's JSON


class LlamaCpp:
    """One thread of arithmetic; adapters are read at the start and weighted by request."""

    def __init__(self, setup: Setup) -> None:
        self._prompts = setup["prompts"]
        self._server = xllamacpp.Server(_parameters(setup))
        self._callers = ThreadPoolExecutor(len(self._prompts))

    @property
    def about(self) -> str:
        return f"xllamacpp {xllamacpp.__version__}, {xllamacpp.get_system_info().strip(' |')}"

    def answer(self, rows: int, adapters: int, tokens: int) -> int:
        """See `Peer`."""
        found = self._all(rows, adapters, {"n_predict": tokens})
        return sum(one["usage"]["completion_tokens"] for one in found)

    def first(self, rows: int, adapters: int) -> tuple[list[int], list[float]]:
        """See `Peer`."""
        found = self._all(rows, adapters, {"n_predict": 1, "n_probs": 1})
        likeliest = [one["choices"][0]["logprobs"]["content"][0] for one in found]
        return [one["id"] for one in likeliest], [one["logprob"] for one in likeliest]

    def _all(self, rows: int, adapters: int, how: dict[str, int]) -> list[Reply]:
        return list(self._callers.map(lambda row: self._one(row, adapters, how), range(rows)))

    def _one(self, row: int, adapters: int, how: dict[str, int]) -> Reply:
        request = how | {
            "prompt": self._prompts[row],
            "temperature": 0.0,
            "top_k": 1,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        if adapters:
            request["lora"] = [{"id": row % adapters, "scale": 1.0}]
        reply: Reply = self._server.handle_completions(request)
        return reply


def _parameters(setup: Setup) -> xllamacpp.CommonParams:
    rows = len(setup["prompts"])
    chosen = xllamacpp.CommonParams()
    chosen.model.path = setup["base"]
    chosen.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(p, 0.0) for p in setup["adapters"]]
    chosen.lora_init_without_apply = True
    chosen.n_parallel = rows
    chosen.n_ctx = rows * 256  # the least that it gives each
    chosen.kv_unified = False
    chosen.n_batch = chosen.n_ubatch = _BATCH
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = 1
    chosen.cache_ram_mib = 0
    chosen.ui = False
    chosen.verbosity = 1
    return chosen


if __name__ == "__main__":
    replies = conversation()
    serve(LlamaCpp(read_setup()), replies)
