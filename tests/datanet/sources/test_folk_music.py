import pytest

from openledger.core.errors import InvalidInputError
from openledger.datanet.extract import Document
from openledger.datanet.sources.folk_music import (
    LICENCE,
    canonical,
    is_sound,
    read,
    transcribers,
)
from tests.datanet.sources.packages import wheel

AIRD = """% A Selection of Airs

X:0001
T:The First Reel.
T:An Alias
N:a remark
M:C|
L:1/8
Q:1/2=112
I: :: ::
%% G A B
Z:Jack Campin * www.campin.me.uk * 2009
K:G
"4"AG|B2``B2   B2AG|"Am"B2B2 B2g2|c2d2 e2f2|g2a2 b2c2|"D.C."A2=20
w:la la
P:B
M:2/4
gG:|

X:0002
T:Nobody's Tune
Z:a remark that names nobody
K:G
ABc|

X: 3
Z:Transcribed by mvhplank
K:C
"""
ONEILL = """X: 1
T: First, The
Z:Contributed 20000418133948 by John Chambers jchambers:casc.com
Z:Contributed by Ray Davies,  ray:davies99.freeserve.co.uk
M:6/8
K:D
DFA dfa|
X: 2
T:Alias, An
Z:1997 by John Chambers <jc@trillian.mit.edu>
K:D
agf edc|
X: 3
T:Quite Another Name
Z:transcribed by J.B.Walsh walsh@math.ubc.ca
K:D
d2d2|:AG|B2 B2 B2AG|"Em"BBB g2|cdef|gabc|A3 gG|
X: 4
Z:"Transcribed by Norbert Paap, norbertp@bdu.uva.nl"
K:D
dddd|
X: 5
T:No music
Z:Transcribed by A.LEE WORMAN
K:D
"""
FILES = {
    "music21/corpus/airdsAirs/book1.abc": AIRD,
    "music21/corpus/oneills1850/0001.abc": ONEILL.replace("\n", "\r\n"),
    "music21/corpus/essenFolksong/han.abc": AIRD,
}


def tunes() -> dict[str, Document]:
    return {d.origin: d for one in read(wheel(FILES)) for d in one.documents}


def test_tunes_are_grouped_by_their_transcriber() -> None:
    groups = {one.name: len(one.documents) for one in read(wheel(FILES))}

    assert groups == {
        "Jack Campin": 1,
        "John Chambers": 1,
        "John Walsh": 1,
        "Norbert Paap": 1,
        "Ray Davies": 1,
    }


def test_a_tune_keeps_its_music_and_loses_the_rest() -> None:
    tune = tunes()["airdsAirs/book1.abc#1"]

    assert tune.text == (
        "X:1\nT:The First Reel.\nM:C|\nL:1/8\nK:G\n"
        'AG|B2B2 B2AG|"Am"B2B2 B2g2|c2d2 e2f2|g2a2 b2c2|A2\nM:2/4\ngG:|'
    )
    assert tune.licence == LICENCE
    assert tune.title == "The First Reel."


def test_twins_by_title_alias_or_a_section_s_opening_share_a_key() -> None:
    found = tunes()

    keys = {found[f"oneills1850/0001.abc#{n}"].key for n in (1, 2, 3)}
    assert keys == {"first"} == {found["airdsAirs/book1.abc#1"].key}
    assert found["oneills1850/0001.abc#4"].key == "untitled"


def test_the_signing_transcriber_comes_before_the_sender_and_correctors() -> None:
    assert tunes()["oneills1850/0001.abc#1"].contributor == "Ray Davies"
    assert tunes()["oneills1850/0001.abc#1"].others == ("John Chambers",)
    corrected = "Z:Corrected by John Chambers\nZ:Transcribed by Tom Keays (a@b)\nZ:abc 1.6"
    assert transcribers(corrected) == ("Tom Keays", "John Chambers")


@pytest.mark.parametrize("z", ["Z:Corrected by John Chambers", "Z:ABCMUS 1.0", "T:Jack Campin"])
def test_correctors_and_remarks_alone_name_nobody(z: str) -> None:
    assert transcribers(z) == ()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Z:Transcribed byA. LEE WORMAN", "A. Lee Worman"),
        ("Z:Transcribed by Trish sO'Nei", "Trish O'Neil"),
        ("Z:20020507 John Walsh <walsh:mat:h.ubc.ca>", "John Walsh"),
        ("Z:Transcripton by J.B. Walsh (walsh@math.ubc.ca)", "John Walsh"),
        ("Z:Contributed 2008-08-11 16:35:44 by John Chambers", "John Chambers"),
        ("Z:Transcribed by henrik.norbeck@mailbox.swipnet.se", "Henrik Norbeck"),
    ],
)
def test_one_person_has_one_name(line: str, name: str) -> None:
    assert transcribers(line) == (name,)


def test_a_tune_without_key_or_music_has_no_form() -> None:
    assert canonical("X:1\nABc|") is None
    assert canonical("X:1\nK:G\nw:la la\n") is None


def test_sound_tunes_parse_and_fill_their_bars() -> None:
    def tune(text: str) -> Document:
        return Document("t", text, LICENCE, "t", "t")

    assert is_sound(tune("X:1\nM:3/4\nL:1/4\nK:C\nABc|def|"))
    assert not is_sound(tune("X:1\nM:3/4\nL:1/4\nK:C\nABcd|def|"))
    assert not is_sound(tune("X:1\nM:none\nK:C\nABcd|def|"))
    assert not is_sound(tune("no tune"))


def test_another_wheel_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no folk tunes"):
        read(wheel({"music21/core.py": ""}))
