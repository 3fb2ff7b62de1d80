"""The commands and files that the documentation shows, as a script that runs them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

# In this order, in one home: later pages use what earlier ones made.
WITH_SERVER = (
    "tutorial/first-answer.md",
    "how-to/contribute.md",
    "how-to/verify-a-receipt.md",
    "how-to/see-the-evidence.md",
    "how-to/train-and-publish.md",
    "how-to/bring-a-base.md",
    "how-to/call-with-openai.md",
    "how-to/merge-releases.md",
    "how-to/settle-and-claim.md",
    "how-to/other-chains.md",
)
WITHOUT_SERVER = ("how-to/back-up.md",)
LONG = "<!-- long -->"
_PORT = "8700"
_BLOCK = re.compile(
    r"^(?P<mark><!-- long -->\n)?```(?P<kind>console|python)\n(?P<body>.*?)^```$", re.M | re.S
)
_TOML = re.compile(r"^```toml\n(.*?)^```$", re.M | re.S)


def script(page: str, port: int) -> str:
    """All that a page shows, as one bash script; what is marked as long is left out.

    `openledger serve` is left out, too: one server runs meanwhile, as a reader's would.
    """
    text = (DOCS / page).read_text(encoding="utf-8").replace(_PORT, str(port))
    parts = ["set -euxo pipefail"]
    for block in _BLOCK.finditer(text):
        if block["mark"] is None:
            parts.append(_commands(block["body"]) if block["kind"] == "console" else _file(block))
    return "\n".join(parts)


def toml_blocks() -> list[tuple[str, str]]:
    """Every TOML block of the documentation, with the name of its page."""
    return [
        (path.relative_to(DOCS).as_posix(), body)
        for path in sorted(DOCS.rglob("*.md"))
        for body in _TOML.findall(path.read_text(encoding="utf-8"))
    ]


def _commands(body: str) -> str:
    lines = []
    for line in body.splitlines():
        if line.startswith(("$ ", "> ", ">")) and line != "$ openledger serve":
            lines.append(line[2:])
    return "\n".join(lines)


def _file(block: re.Match[str]) -> str:
    """A Python block whose first line names it is a file; others are only shown."""
    name = re.match(r"# (\S+\.py)\n", block["body"])
    if name is None:
        return ""
    return f"cat > {name[1]} <<'END_OF_FILE'\n{block['body']}END_OF_FILE"
