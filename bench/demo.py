"""The demonstration, timed stage by stage, and what its model's answers pay in and out of domain.

`python -m bench.demo` runs `openledger demo` in a fresh home and measures the home afterwards:
twenty prompts inside the folk music Datanet's subject and twenty outside it, none of which any
constant was chosen on. `--smoke` does the same on the tiny model, for correctness only.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from statistics import mean

import msgspec

from bench.demo_prompts import IN_DOMAIN, OUT_OF_DOMAIN
from bench.table import Row, at_least, at_most, options, report
from openledger.core.types import PARTS_PER_BILLION
from openledger.serving.request import GenerationRequest, MixMember, Sampling
from openledger.settings import Settings, load
from openledger.settlement.shares import shares
from openledger.storage.records.model import releases
from openledger.wiring.platform import Platform, open_platform

ANSWER_TOKENS = 64
_SMOKE_PROMPTS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = options(__doc__)
    parser.add_argument("--home", type=Path, help="measure this home's demo instead of a fresh one")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as scratch:
        home = chosen.home or Path(scratch) / "home"
        outcome = _demo(home, is_tiny=chosen.smoke)
        settings = load(
            {"home": {"path": str(home)}, "models": {"base": "tiny" if chosen.smoke else None}}
        )
        count = _SMOKE_PROMPTS if chosen.smoke else len(IN_DOMAIN)
        rows = _rows(outcome) + _domains(settings, count, has_target=not chosen.smoke)
    report(rows, chosen.json)


def _demo(home: Path, *, is_tiny: bool) -> dict[str, object]:
    command = [sys.executable, "-m", "openledger.cli.main", "--json", "--home", str(home), "demo"]
    done = subprocess.run(
        [*command, *(["--tiny"] if is_tiny else [])], stdout=subprocess.PIPE, check=True
    )
    found = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def _rows(outcome: dict[str, object]) -> list[Row]:
    class Seen(msgspec.Struct):
        seconds: float
        first_answer_seconds: float | None
        stages: dict[str, float]
        perplexity: dict[str, float]
        held_out_tokens: int
        training_tokens: int
        contributors: int

    seen = msgspec.convert(outcome, Seen)
    rows = [Row(f"stage: {name}", seconds, "s") for name, seconds in seen.stages.items()]
    return [
        *rows,
        at_most("first paid, attributed answer", seen.first_answer_seconds or 0.0, "s", 300),
        at_most("whole demo", seen.seconds, "s", 480),
        Row("perplexity of the base, held out", seen.perplexity["base"], ""),
        at_most("perplexity of the adapter, held out", seen.perplexity["adapter"], "", 14),
        at_least("held-out tokens", seen.held_out_tokens, "tokens", 20_000),
        Row("training tokens", seen.training_tokens, "tokens"),
        at_least("contributors trained on", seen.contributors, "people", 20),
    ]


def _domains(settings: Settings, count: int, *, has_target: bool) -> list[Row]:
    with open_platform(settings) as platform:
        inside = mean(_data_share(platform, prompt) for prompt in IN_DOMAIN[:count])
        outside = mean(_data_share(platform, prompt) for prompt in OUT_OF_DOMAIN[:count])
    ratio = outside / inside if inside else 1.0
    last = at_most("out of domain / in domain", ratio, "", 1 / 3)
    return [
        Row("contributors' mean part, in domain", inside, ""),
        Row("contributors' mean part, out of domain", outside, ""),
        last if has_target else Row(last.name, last.value, last.unit),
    ]


def _data_share(platform: Platform, prompt: str) -> float:
    """Generate an answer, unpaid, and attribute it; the part that all contributors get."""
    models = platform.models
    with platform.database.read() as transaction:
        release = releases.list_served(transaction)[0]
    desk = models.desk
    ids = desk.tokenizer.encode(prompt)
    request = GenerationRequest(
        id=sha256(prompt.encode()).hexdigest(),
        tenant="bench",
        prompt_ids=tuple(ids),
        mix=(MixMember(release.adapter, 1.0),),
        sampling=Sampling(seed=sha256(prompt.encode()).digest()),
        max_tokens=ANSWER_TOKENS,
        stop_ids=frozenset([desk.tokenizer.end]),
        deadline_s=600.0,
    )
    answer = [token.id for token in desk.engine.submit(request)]
    scores = models.scorer(release).attribute(ids, answer)
    nobody = shares(scores.gain, scores.clusters).nobody_ppb
    return 1 - nobody / PARTS_PER_BILLION


if __name__ == "__main__":
    main()
