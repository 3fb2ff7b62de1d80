"""What the real corpora hold, and how well they are read.

Packages are taken from the cache or fetched into it; a corpus that cannot be had is told on stderr
and not measured. `--smoke` reads the folk music only.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.table import Row, at_least, options, run
from openledger.core.errors import InvalidInputError, UnavailableError
from openledger.datanet.abc_notation import parse, share_of_full_bars
from openledger.datanet.extract import Document
from openledger.datanet.sources import breton, folk_music, linux_manual
from openledger.datanet.sources.contributors import SourceContributor
from openledger.flows.data.obtain import obtain
from openledger.settings import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    cache = Path(load({}).home.cache, "packages")  # that of `openledger demo`
    parser.add_argument("--cache", type=Path, default=cache)
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    names = ["folk-music"] if chosen.smoke else ["folk-music", "linux-manual", "breton"]
    return [row for name in names for row in _corpus(name, chosen.cache)]


def _corpus(name: str, cache: Path) -> list[Row]:
    try:
        archives = [path.read_bytes() for path in obtain(name, cache).values()]
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return [Row(f"{name}: documents", None, "")]
    started = time.process_time()
    people = _read(name, archives)
    seconds = time.process_time() - started
    documents = [document for one in people for document in one.documents]
    rows = [
        Row(f"{name}: contributors", len(people), "people"),
        Row(f"{name}: documents", len(documents), ""),
        Row(f"{name}: keys", len({document.key for document in documents}), ""),
        Row(f"{name}: text", sum(len(one.text.encode()) for one in documents) / 1e6, "MB"),
        Row(f"{name}: CPU time of reading", seconds, "s"),
    ]
    return rows + (_bars(name, documents) if name == "folk-music" else [])


def _bars(name: str, tunes: Sequence[Document]) -> list[Row]:
    shares = _full_bars([tune.text for tune in tunes])
    return [
        at_least(f"{name}: tunes that parse", 100 * len(shares) / len(tunes), "%", 99),
        at_least(f"{name}: bars that sum to the metre, median", 100 * median(shares), "%", 100),
    ]


def _read(name: str, archives: list[bytes]) -> tuple[SourceContributor, ...]:
    match name:
        case "folk-music":
            return folk_music.read(archives[0])
        case "linux-manual":
            return linux_manual.read(archives)
        case _:
            return breton.read(archives[0], archives[1])


def _full_bars(tunes: list[str]) -> list[float]:
    shares = []
    for tune in tunes:
        try:
            share = share_of_full_bars(parse(tune))
        except InvalidInputError:
            continue
        shares.append(1.0 if share is None else share)
    return shares


if __name__ == "__main__":
    sys.exit(main())
