"""How every command speaks: data on stdout, talk on stderr, one exit code per kind of error."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
import typer

from openledger.core import errors
from openledger.core.encoding import to_wire

_NOT_AVAILABLE = 7
EXIT_CODES: tuple[tuple[type[errors.OpenLedgerError], int], ...] = (
    (errors.InvalidInputError, 2),
    (errors.NotFoundError, 3),
    (errors.UnauthenticatedError, 4),
    (errors.NotAllowedError, 4),
    (errors.InsufficientBalanceError, 5),
    (errors.VerificationError, 6),
    (errors.UnavailableError, _NOT_AVAILABLE),
)
_ALL = "pip install torch==2.13.0, then pip install 'openledger[all]'"
_CURES = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "gguf"), _ALL),
    "openai": "pip install 'openledger[demo]'",
    "psycopg": "pip install 'openledger[postgres]'",
    "s3fs": "pip install 'openledger[s3]'",
}
FAILED = 1
INTERRUPTED = 130


class Output:
    """Prints results as tables for people, or as one JSON object a result for programs."""

    def __init__(self, *, as_json: bool, is_quiet: bool) -> None:
        self.as_json = as_json
        self.is_quiet = is_quiet

    def result(self, record: msgspec.Struct, text: str) -> None:
        """The command's answer."""
        print(to_wire(record).decode() if self.as_json else text, flush=True)

    def talk(self, text: str) -> None:
        """Progress and advice, for people only."""
        if not self.is_quiet:
            print(text, file=sys.stderr, flush=True)

    def stream(self, piece: str) -> None:
        """Talk that comes in pieces, each shown at once; lines end where the text says so."""
        if not self.is_quiet:
            print(piece, end="", file=sys.stderr, flush=True)


def exit_code(error: errors.OpenLedgerError) -> int:
    """The exit code of an error; documented in docs/reference/errors.md."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)


@contextmanager
def told(output: Output) -> Iterator[None]:
    """Turn errors into one sentence and an exit code.

    Raises:
        typer.Exit: always, when the body raised one of ours or was interrupted.
    """
    try:
        with errors.full_disk():
            yield
    except errors.OpenLedgerError as error:
        fail(output, error.code, str(error), exit_code(error))
    except ImportError as error:
        missing = _missing(error)
        if missing.startswith("openledger"):
            raise
        fail(output, "unavailable", _cure(missing, error), _NOT_AVAILABLE)
    except OSError as error:
        fail(output, "io", f"{error.filename or 'a file'}: {error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        fail(output, "interrupted", "interrupted; run the same command again to go on", INTERRUPTED)


def fail(output: Output, code: str, message: str, status: int) -> None:
    """Say what went wrong, and leave."""
    if output.as_json:
        print(json.dumps({"error": {"code": code, "message": message}}))
    print(f"openledger: {message}", file=sys.stderr)
    raise typer.Exit(status)


def _missing(error: ImportError) -> str:
    """The package that is not there; fsspec names it in the cause alone."""
    cause = error.__cause__
    name = error.name or (cause.name if isinstance(cause, ImportError) else None)
    return (name or "").partition(".")[0]


def _cure(missing: str, error: ImportError) -> str:
    if not missing:
        return f"a package does not load: {error}; install it again"
    return f"this command needs {missing}: {_CURES.get(missing, f'pip install {missing}')}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain columns; numbers to the right."""
    cells = [list(head), *[[printable(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def open_amount(wei: int) -> str:
    """An amount for people, in OPEN with up to six decimals; the JSON keeps every wei."""
    whole, rest = divmod(wei, 10**18)
    decimals = f"{rest:018d}"[:6].rstrip("0")
    if not decimals and rest and not whole:
        return "<0.000001"
    return f"{whole}.{decimals}" if decimals else str(whole)


def percent(ppb: int) -> str:
    """A share for people."""
    return f"{ppb / 10_000_000:.1f} %"


def moment(microseconds: int) -> str:
    """A time for people, in UTC; the JSON keeps the microseconds."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def printable(text: str) -> str:
    """Text of unknown origin, such as a model's, without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def short(hexadecimal: str) -> str:
    """A hash or address for people."""
    return f"{hexadecimal[:6]}…{hexadecimal[-4:]}"


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "<-+" or cell == ""
