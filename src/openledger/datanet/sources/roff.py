"""Render the man(7) macros and roff escapes that manual pages use as plain text.

Headings stand on their own lines, paragraphs are filled to one line, examples keep their lines and
table rows become lines with two spaces between cells. Conditionals and macro definitions of the
page are left out. Source: groff_man(7), groff_char(7).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field


def render(source: str) -> str:
    """A page's text; comments are gone."""
    page = _Page()
    joined = _CONTINUED.sub("", source)
    for line in _without_definitions(joined.split("\n")):
        _read_line(page, line)
    page.end_paragraph()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(page.lines)).strip("\n")


def unescape(text: str) -> str:
    """Replace roff escapes by what they print."""
    return _ESCAPE.sub(_printed, text)


_CONTINUED = re.compile(r"(?<!\\)\\\n")
_REQUEST = re.compile(r"[.'][ \t]*(?P<name>[A-Za-z]+)[ \t]*(?P<rest>.*)")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')
_ESCAPE = re.compile(
    r"""\\(?:
        "(?P<comment>.*)
      | f(?:\(..|\[[^\]]*\]|.)
      | s[+-]?(?:\(\d\d|\d)
      | [wvh]'[^']*'
      | n[+-]?(?:\(..|\[[^\]]*\]|.)
      | \*(?:\((?P<string>..)|\[(?P<long_string>[^\]]*)\]|(?P<char_string>.))
      | \((?P<glyph>..)
      | \[(?P<long_glyph>[^\]]*)\]
      | (?P<plain>.)
      | $
    )""",
    re.VERBOSE,
)
_GLYPHS = {
    "aq": "'", "dq": '"', "bu": "•", "em": "—", "en": "–", "ha": "^", "ti": "~", "ga": "`",
    "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "+-": "±", "la": "⟨", "ra": "⟩", "de": "°",
    "fm": "′", "sd": "″", "dg": "†", "12": "½", "mc": "µ", "mi": "−", "mu": "×", "co": "©",
    "rg": "®", "tm": "™", "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "rs": "\\", "sc": "§",
    "'a": "á", "'e": "é", "`a": "à", ":a": "ä", ":A": "Ä", "^a": "â", "^o": "ô", ":o": "ö",
    ":u": "ü", "ss": "ß", "R": "®", "Tm": "™", "or": "|", "bv": "|", "ul": "_", "sl": "/",
}  # fmt: skip
_PLAIN = {"-": "-", "e": "\\", "\\": "\\", " ": " ", "~": " ", "0": " ", "t": "\t"} | {
    "'": "´",
    "`": "`",
}
_ALTERNATING = frozenset({"BR", "RB", "BI", "IB", "IR", "RI"})
_FONTS = frozenset({"B", "I", "SM", "SB", "R"})
_PARAGRAPHS = frozenset({"PP", "P", "LP", "HP", "sp", "RS", "RE", "TQ", "YS", "EE", "fi"})
_SECTIONS = frozenset({"SH", "SS"})
_LITERAL = frozenset({"nf", "EX"})
_LINKS = frozenset({"UR", "MT"})


@dataclass
class _Page:
    lines: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # of the paragraph being filled
    is_literal: bool = False
    expects_tag: bool = False  # the next line is the tag of a TP paragraph
    in_table: bool = False
    table_format: bool = False  # still in the table's format lines

    def add(self, text: str) -> None:
        """Add a line of text; outside examples and tables it is filled."""
        if self.is_literal or self.in_table:
            self.lines.append(text.rstrip())
        elif not text.strip():
            self.end_paragraph()
        else:
            self.words.append(text.strip())
        if self.expects_tag:
            self.expects_tag = False
            self.end_line()

    def end_line(self) -> None:
        """Write what was filled so far."""
        if self.words:
            self.lines.append(" ".join(self.words))
            self.words = []

    def end_paragraph(self) -> None:
        """Write what was filled so far, then a blank line."""
        self.end_line()
        self.lines.append("")


def _without_definitions(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if re.match(r"[.']\s*de\b", line):
            inside = True
        elif inside and line.startswith(".."):
            inside = False
        elif not inside:
            yield line


def _read_line(page: _Page, line: str) -> None:
    if re.match(r"[.']\s*\\[\"#]", line) or line.strip() in {".", "'"}:
        return
    request = _REQUEST.match(line)
    if page.in_table and not (request and request["name"] == "TE"):
        _read_table_line(page, line)
    elif request is None:
        page.add(unescape(line))
    else:
        _read_request(page, request["name"], request["rest"])


def _read_request(page: _Page, name: str, rest: str) -> None:
    if name in _ALTERNATING:
        page.add("".join(_arguments(rest)))
    elif name in _FONTS:
        page.add(" ".join(_arguments(rest)))
    elif name in _SECTIONS:
        page.end_paragraph()
        page.is_literal = False
        page.lines += [" ".join(_arguments(rest)), ""]
    elif name in _PARAGRAPHS:
        page.end_paragraph()
        page.is_literal = page.is_literal and name not in {"fi", "EE"}
    else:
        _read_rarer_request(page, name, rest)


def _read_rarer_request(page: _Page, name: str, rest: str) -> None:
    if name in _LITERAL:
        page.end_line()
        page.is_literal = True
    elif name in {"TP", "IP"}:
        page.end_paragraph()
        page.expects_tag = name == "TP"
        if name == "IP":
            _add_tag(page, _arguments(rest))
    elif name in {"TS", "TE"}:
        page.end_paragraph()
        page.in_table = page.table_format = name == "TS"
    elif name == "br":
        page.end_line()
    elif name in _LINKS or name in {"SY", "OP"}:
        page.add(" ".join(_arguments(rest)))


def _add_tag(page: _Page, arguments: list[str]) -> None:
    """An IP's tag: a bullet runs on into its text, a term stands on its own line."""
    if arguments and arguments[0]:
        page.words.append(arguments[0])
        if len(arguments[0]) > 3:
            page.end_line()


def _read_table_line(page: _Page, line: str) -> None:
    if page.table_format:
        page.table_format = not line.rstrip().endswith(".")
        return
    row = line.replace("T{", "").replace("T}", "")
    request = _REQUEST.match(row)
    if request is not None:
        glue = "" if request["name"] in _ALTERNATING else " "
        row = glue.join(_arguments(request["rest"])) if _is_text(request["name"]) else ""
    cells = [unescape(cell).strip() for cell in row.split("\t")]
    if any(cell.strip("_=") for cell in cells):
        page.lines.append("  ".join(cell for cell in cells if cell))


def _is_text(name: str) -> bool:
    return name in _ALTERNATING or name in _FONTS


def _arguments(rest: str) -> list[str]:
    found = _ARGUMENT.findall(re.sub(r'(?:^|[ \t])\\".*', "", rest).replace("\\ ", "\\~"))
    return [unescape(quoted.replace('""', '"') or plain) for quoted, plain in found]


def _printed(escape: re.Match[str]) -> str:
    plain = escape["plain"]
    if plain is not None:
        return _PLAIN.get(plain, "")
    names = ("glyph", "long_glyph", "string", "long_string", "char_string")
    name = next((escape[group] for group in names if escape[group] is not None), "")
    return _GLYPHS.get(name, "")
