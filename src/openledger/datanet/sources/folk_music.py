"""Folk tunes in ABC from the wheel of music21, by the people who transcribed them.

Only three folders: Aird's Airs (1778), O'Neill's Music of Ireland and Ryan's Mammoth Collection
(1883), whose tunes are in the public domain; the encodings are used with their encoders'
permission. Each tune names its transcriber in Z: lines, in many spellings and among remarks.
Tunes that name nobody belong to nobody and are left out.
"""

import re
from collections.abc import Iterator

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.datanet.abc_notation import parse, share_of_full_bars
from openledger.datanet.extract import Document
from openledger.datanet.rules import Rules
from openledger.datanet.sources.archives import read_wheel
from openledger.datanet.sources.contributors import SourceContributor, by_contributor
from openledger.datanet.text.titles import title_key

LICENCE = "LicenseRef-public-domain-tune-encoded-with-permission"
RULES = Rules(
    name="folk-music",
    description=(
        "Folk tunes in ABC notation from Aird's Airs, O'Neill's Music of Ireland and Ryan's "
        "Mammoth Collection, by the people who transcribed them."
    ),
    licences=(LICENCE,),
)

_CORPUS = "music21/corpus/"
_FOLDERS = tuple(_CORPUS + name for name in ("airdsAirs/", "oneills1850/", "ryansMammoth/"))


def read(wheel: bytes) -> tuple[SourceContributor, ...]:
    """All tunes with a named transcriber, in canonical form, grouped by them.

    Raises:
        InvalidInputError: it is no wheel with these folders.
    """
    files = read_wheel(wheel, _FOLDERS, ".abc")
    if not files:
        raise InvalidInputError("this wheel has no folk tunes: give music21 10.5.1")
    tunes = [tune for name, raw in files.items() for tune in _tunes(name, raw)]
    return by_contributor(_with_shared_keys(tunes))


def is_sound(tune: Document, fullness: float = 0.9) -> bool:
    """Whether a tune parses and at least this share of its bars sums to the metre."""
    try:
        share = share_of_full_bars(parse(tune.text))
    except InvalidInputError:
        return False
    return share is not None and share >= fullness


def transcribers(tune: str) -> tuple[str, ...]:
    """The people a tune's Z: lines name, the transcriber first; empty when they name nobody.

    A line that a collection's upload form has stamped with the time says who sent the tune in, so
    it ranks below a line in which a transcriber signs; correctors come last.
    """
    ranked: list[tuple[int, str]] = []
    for line in _Z_LINE.findall(tune):
        name = _known_name(line)
        if name is not None:
            rank = 2 if _CORRECTION.match(line) else int(_STAMPED.match(line) is not None)
            ranked.append((rank, name))
    if not any(rank < 2 for rank, _ in ranked):
        return ()
    ranked.sort(key=lambda pair: pair[0])
    return tuple(dict.fromkeys(name for _, name in ranked))


def canonical(tune: str) -> str | None:
    """A tune with the fields that make music: X, T, M, L, K, then its notes.

    Sources, books, remarks, tempo, lyrics, fingerings and layout marks go; the music stays as it
    was written. None when there is no key or no music.
    """
    lines = [_tidy(line) for line in tune.splitlines()]
    starts = [index for index, line in enumerate(lines) if line.startswith("K:")]
    if not starts:
        return None
    head = {name: _first(lines[: starts[0]], name) for name in "TML"}
    fields = [f"{name}:{value}" for name, value in head.items() if value]
    music = [line for line in lines[starts[0] + 1 :] if _is_music(line)]
    if not any("|" in line for line in music):
        return None
    return "\n".join(["X:1", *fields, f"K:{lines[starts[0]][2:].strip()}", *music])


# A fragment in lower case that only this person's lines hold, over all spellings and addresses.
_TRANSCRIBERS = (
    ("campin", "Jack Campin"),
    ("ray davies", "Ray Davies"),
    ("walsh", "John Walsh"),
    ("safranek", "Bob Safranek"),
    ("norbeck", "Henrik Norbeck"),
    ("trish", "Trish O'Neil"),
    ("petersen", "Dan G. Petersen"),
    ("hogan", "Michael Hogan"),
    ("stephen foy", "Stephen Foy"),
    ("michael d. long", "Michael D. Long"),
    ("lee worman", "A. Lee Worman"),
    ("puckette", "Bob Puckette"),
    ("keays", "Tom Keays"),
    ("chris falt", "Chris Falt"),
    ("wooldridge", "Dave Wooldridge"),
    ("norbert paap", "Norbert Paap"),
    ("thorpe", "Robert Thorpe"),
    ("ivan bradley", "Ivan Bradley"),
    ("terhorst", "Nick Terhorst"),
    ("mvhplank", "mvhplank"),
    ("hastings", "Ted Hastings"),
    ("paul de grae", "Paul de Grae"),
    ("nordberg", "Frank Nordberg"),
    ("john chambers", "John Chambers"),
)
_NEXT_TUNE = re.compile(r"\n(?=X: ?\d)")
_Z_LINE = re.compile(r"(?m)^Z:(.*)$")
_STAMPED = re.compile(r"\s*Contributed\s+(?:\d{8,14}|\d{4}-\d\d-\d\d)\b", re.IGNORECASE)
_CORRECTION = re.compile(r"\s*(?:Slurs )?(?:Corrected|Edited|Proofread)", re.IGNORECASE)
_FIELD_LINE = re.compile(r"[A-Za-z]:(?![|:])")
_QUOTED = re.compile(r'"([^"]*)"')
_CHORD_NAME = re.compile(r"[A-G][#b]?(?:m|min|maj|dim|aug|sus)?\d{0,2}(?:/[A-G][#b]?)?")
_DANCES = re.compile(
    r"\s+(?:reel|jig|slip jig|hornpipe|strathspey|clog|march|waltz|polka|air|fling)$"
)
_TOO_COMMON = frozenset(
    {"", "reel", "jig", "hornpipe", "march", "untitled", "quick step", "air", "do", "irish"}
)
_OPENING_NOTES = 20
_SECTION_END = re.compile(r":\|:?|\|:|::|\|\||\|\]|\[\|")
_NOT_NOTES = re.compile(r'"[^"]*"|!\w+!|\{[^}]*\}|\[[A-Za-z]:[^\]]*\]')


def _tunes(name: str, raw: bytes) -> Iterator[Document]:
    text = raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for number, tune in enumerate(_NEXT_TUNE.split("\n" + text)):
        people = transcribers(tune)
        music = canonical(tune)
        if not people or music is None:
            continue
        title = next((line[2:] for line in music.splitlines() if line.startswith("T:")), "untitled")
        aliases = " / ".join(_titles(tune))
        yield Document(
            title=title,
            text=music,
            licence=LICENCE,
            key=aliases,
            origin=f"{name.removeprefix(_CORPUS)}#{number}",
            contributor=people[0],
            others=people[1:],
        )


def _known_name(line: str) -> str | None:
    lowered = line.lower()
    return next((name for mark, name in _TRANSCRIBERS if mark in lowered), None)


def _tidy(line: str) -> str:
    plain = _QUOTED.sub(_chord_or_nothing, line.partition("%")[0])
    plain = re.sub(r"=(?:20|0D)?$", "", plain.replace("`", "").rstrip())
    return re.sub(r"\s+", " ", plain).strip()


def _chord_or_nothing(quoted: re.Match[str]) -> str:
    """Chord names stay; fingerings and remarks go."""
    return quoted[0] if _CHORD_NAME.fullmatch(quoted[1]) else ""


def _first(lines: list[str], name: str) -> str:
    values = (line[2:].strip() for line in lines if line.startswith(name + ":"))
    return next((value for value in values if value), "")


def _is_music(line: str) -> bool:
    if _FIELD_LINE.match(line):
        return line[0] in "KML"
    return re.search(r"[A-Ga-gz|]", line) is not None


def _titles(tune: str) -> list[str]:
    keys = (_DANCES.sub("", title_key(title)) for title in re.findall(r"(?m)^T:(.*)$", tune))
    return [key for key in keys if key]


def _with_shared_keys(tunes: list[Document]) -> list[Document]:
    """Give one key to all tunes that share a title, an alias or the opening of a section."""
    groups = _Groups(len(tunes))
    for index, tune in enumerate(tunes):
        for alias in tune.key.split(" / "):
            if alias not in _TOO_COMMON:
                groups.join(index, "title " + alias)
        for opening in _openings(tune.text):
            groups.join(index, "notes " + opening)
    keys: dict[int, str] = {}
    for index, tune in enumerate(tunes):
        own = tune.key.split(" / ")[0] or title_key(tune.title)
        keys.setdefault(groups.find(index), own)
    return [
        msgspec.structs.replace(tune, key=keys[groups.find(index)])
        for index, tune in enumerate(tunes)
    ]


def _openings(text: str) -> list[str]:
    """The first note letters of each section, where there are enough of them to tell tunes apart.

    Books print the parts of a tune in different orders; the openings still meet.
    """
    music = "\n".join(line for line in text.splitlines() if _FIELD_LINE.match(line) is None)
    sections = _SECTION_END.split(_NOT_NOTES.sub("", music).lower())
    letters = ("".join(re.findall(r"[a-g]", section)) for section in sections)
    return [notes[:_OPENING_NOTES] for notes in letters if len(notes) >= _OPENING_NOTES]


class _Groups:
    """Sets of indexes that grow together when they share a mark (union-find)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._marked: dict[str, int] = {}

    def join(self, index: int, mark: str) -> None:
        one, other = self.find(index), self.find(self._marked.setdefault(mark, index))
        self._parent[max(one, other)] = min(one, other)

    def find(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index
