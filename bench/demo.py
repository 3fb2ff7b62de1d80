"""The demonstration, timed stage by stage, and what its model's answers pay in and out of domain.

`python -m bench.demo` runs `openledger demo` in a fresh home and measures the home afterwards:
twenty prompts inside the folk music Datanet's subject and twenty outside it, none of which any
constant was chosen on. `--home` measures a home that exists: what an earlier run did is not done
again there, so no time is given. `--smoke` runs the tiny model in a fresh home and asks for no
figure, only that all of it works.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from statistics import mean

import msgspec

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.demo_prompts import IN_DOMAIN, OUT_OF_DOMAIN
from bench.table import Row, at_least, at_most, exactly, options, run
from openledger.core.types import PARTS_PER_BILLION
from openledger.flows.money.attribute import Member
from openledger.serving.request import GenerationRequest, MixMember, Sampling
from openledger.settings import Settings, load
from openledger.settlement.shares import MemberScores, combine
from openledger.storage.home import Home
from openledger.storage.records.model import releases
from openledger.wiring.platform import Platform, open_platform

ANSWER_TOKENS = 64
_SMOKE_PROMPTS = 2


class Seen(msgspec.Struct):
    """What is read of the last object of `openledger demo --json`."""

    seconds: float
    first_answer_seconds: float | None
    stages: dict[str, float]
    perplexity: dict[str, float]
    held_out_tokens: int
    training_tokens: int
    contributors: int
    identity: dict[str, bool]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    parser.add_argument("--home", type=Path, help="measure this home's demo instead of a fresh one")
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as scratch:
        home = chosen.home or Path(scratch) / "home"
        is_fresh = not Home(home).database.exists()
        seen = _demo(home, is_tiny=chosen.smoke)
        settings = load(
            {"home": {"path": str(home)}, "models": {"base": "tiny" if chosen.smoke else None}}
        )
        count = _SMOKE_PROMPTS if chosen.smoke else len(IN_DOMAIN)
        rows = [*times(seen, is_fresh=is_fresh), *_learned(seen), *_domains(settings, count)]
    if chosen.smoke:  # the targets are the real model's
        rows = [msgspec.structs.replace(row, target=None, is_good=None) for row in rows]
    return [*rows, exactly("the money identity holds", int(seen.identity["holds"]), "", 1)]


def times(seen: Seen, *, is_fresh: bool) -> list[Row]:
    """How long all of it took; in a home that is not fresh, a part of it was done before."""
    stages = [
        Row(f"stage: {name}", seconds if is_fresh else None, "s")
        for name, seconds in seen.stages.items()
    ]
    first = seen.first_answer_seconds if is_fresh else None
    return [
        *stages,
        at_most("first paid, attributed answer", first, "s", 300),
        at_most("whole demo", seen.seconds if is_fresh else None, "s", 480),
    ]


def _demo(home: Path, *, is_tiny: bool) -> Seen:
    command = [sys.executable, "-m", "openledger.cli.main", "--json", "--home", str(home), "demo"]
    done = subprocess.run(
        [*command, *(["--tiny"] if is_tiny else [])], stdout=subprocess.PIPE, check=True
    )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Seen)


def _learned(seen: Seen) -> list[Row]:
    return [
        Row("perplexity of the base, held out", seen.perplexity["base"], ""),
        at_most("perplexity of the adapter, held out", seen.perplexity["adapter"], "", 14),
        at_least("held-out tokens", seen.held_out_tokens, "tokens", 20_000),
        Row("training tokens", seen.training_tokens, "tokens"),
        at_least("contributors trained on", seen.contributors, "people", 20),
    ]


def _domains(settings: Settings, count: int) -> list[Row]:
    with open_platform(settings) as platform:
        inside = mean(_data_share(platform, prompt) for prompt in IN_DOMAIN[:count])
        outside = mean(_data_share(platform, prompt) for prompt in OUT_OF_DOMAIN[:count])
    ratio = outside / inside if inside else 1.0
    return [
        Row("contributors' mean part, in domain", inside, ""),
        Row("contributors' mean part, out of domain", outside, ""),
        at_most("out of domain / in domain", ratio, "", 1 / 3),
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
    [found] = models.scorer((Member(release, PARTS_PER_BILLION),)).attribute(ids, answer)
    added, segments = found.leave_one_out_micronats, found.segments
    scores = MemberScores(release.number or 0, PARTS_PER_BILLION, added, found.unscored, segments)
    nobody = combine([scores]).nobody_ppb
    return 1 - nobody / PARTS_PER_BILLION


if __name__ == "__main__":
    sys.exit(main())
