"""What the real corpora hold, and how well they are read: one table, `--json`, `--smoke`.

Packages are taken from the cache or fetched into it; `--smoke` reads the folk music only.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from openledger.core.errors import InvalidInputError, UnavailableError
from openledger.datanet.abc_notation import parse, share_of_full_bars
from openledger.datanet.sources import breton, folk_music, linux_manual
from openledger.datanet.sources.contributors import SourceContributor
from openledger.flows.data.obtain import obtain


class Row(msgspec.Struct, frozen=True):
    """One corpus."""

    corpus: str
    contributors: int
    documents: int
    keys: int
    bytes: int
    seconds: float
    parsed: float | None = None  # share of tunes that parse
    full_bars: float | None = None  # median share of bars that sum to the metre


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "openledger"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args(arguments)
    names = ["folk-music"] if options.smoke else ["folk-music", "linux-manual", "breton"]
    for name in names:
        try:
            row = _measure(name, options.cache)
        except UnavailableError as error:
            print(error, file=sys.stderr)
            continue
        line = msgspec.json.encode(row).decode() if options.json else _line(row)
        print(line)


def _measure(name: str, cache: Path) -> Row:
    archives = [path.read_bytes() for path in obtain(name, cache).values()]
    started = time.process_time()
    people = _read(name, archives)
    seconds = time.process_time() - started
    documents = [document for one in people for document in one.documents]
    row = Row(
        corpus=name,
        contributors=len(people),
        documents=len(documents),
        keys=len({document.key for document in documents}),
        bytes=sum(len(document.text.encode()) for document in documents),
        seconds=round(seconds, 1),
    )
    if name != "folk-music":
        return row
    shares = _full_bars([document.text for document in documents])
    return msgspec.structs.replace(
        row, parsed=round(len(shares) / len(documents), 4), full_bars=median(shares)
    )


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


def _line(row: Row) -> str:
    tunes = "" if row.parsed is None else f"  {row.parsed:.1%} parse, {row.full_bars:.0%} full bars"
    return (
        f"{row.corpus:14}{row.contributors:6} contributors{row.documents:8} documents"
        f"{row.keys:8} keys{row.bytes / 1e6:8.2f} MB{row.seconds:6.1f} s{tunes}"
    )


if __name__ == "__main__":
    main()
