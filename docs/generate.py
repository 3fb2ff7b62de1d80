"""Write docs/reference/cli.md from the command line itself.

`python docs/generate.py` writes it; `tests/docs/test_reference.py` fails while it is stale.
"""

from pathlib import Path

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from openledger.cli.main import app

TARGET = Path(__file__).parent / "reference" / "cli.md"

HEAD = """# The command line

Made by `python docs/generate.py`; edit the commands' own help instead.

`--home`, `--chain`, `--json` and `--quiet` may stand anywhere on the line. Results go to standard
output, progress and advice to standard error. With `--json` a result is one JSON object a line, and
amounts of money are decimal strings of wei. Exit codes: [errors](errors.md). Every option of the
settings can also be given by environment or file: [settings](settings.md).
"""


def text() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return "\n".join([HEAD, *_sections("openledger", root, level=2)])


def _sections(name: str, command: object, level: int) -> list[str]:
    assert isinstance(command, TyperCommand | TyperGroup)
    lines = [f"{'#' * level} {name}", "", _flat(command.help or ""), "", *_example(command)]
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        lines += ["| argument or option | meaning |", "| --- | --- |", *rows, ""]
    inner = command.commands if isinstance(command, TyperGroup) else {}
    below = 3 if level == 3 or " " in name else 2
    sections = ["\n".join(lines)]
    for key in sorted(inner):
        sections += _sections(f"{name} {key}", inner[key], below)
    return sections


def _example(command: TyperCommand | TyperGroup) -> list[str]:
    label, _, line = (command.epilog or "").partition(": ")
    return [f"{label}: `{line}`", ""] if line else []


def _row(parameter: object) -> str:
    assert isinstance(parameter, TyperArgument | TyperOption)
    meaning = _flat(parameter.help or "")
    if isinstance(parameter, TyperArgument):
        optional = "" if parameter.required else " (optional)"
        return f"| `{(parameter.name or '').upper()}`{optional} | {meaning} |"
    name = ", ".join(f"`{option}`" for option in parameter.opts)
    more = " Required." if parameter.required else _default(parameter.default)
    return f"| {name} | {meaning}{more} |"


def _default(value: object) -> str:
    return (
        f" Default: {value}." if isinstance(value, str | int) and value not in (False, "") else ""
    )


def _flat(help_text: str) -> str:
    return " ".join(help_text.split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
