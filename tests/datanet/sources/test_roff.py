import pytest

from openledger.datanet.sources.roff import render, unescape


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"a\-b \(em c \[lq]d\[rq] \e \\ \f(CWx\fP \fIy\fR", "a-b — c “d” \\ \\ x y"),
        (
            r"no\%break a\&b \s-1SM\s0 \w'abc' \nX \n(yr q",
            "nobreak ab SM q",
        ),
        (r"a\~b\ c\0d \*R \*(lq \*[rq] \(zz \c", "a b c d ® “ ”  "),
        (r"text \" a comment", "text "),
        ("end\\", "end"),
    ],
)
def test_escapes_become_what_they_print(source: str, text: str) -> None:
    assert unescape(source).split() == text.split()


def test_headings_stand_alone_and_paragraphs_are_filled() -> None:
    source = '.TH X 1\n.SH "SEE ALSO"\nOne line\n.B and\nanother.\n.PP\nNext\n\npart.\n.br\nLine.'

    assert render(source) == "SEE ALSO\n\nOne line and another.\n\nNext\n\npart.\nLine."


def test_alternating_fonts_are_joined_without_blanks() -> None:
    source = r""".BR printf (3),
.BI "int f(char *" key ", int " n );
.IR a\ b c"""

    assert render(source) == "printf(3), int f(char *key, int n); a bc"


def test_continued_lines_are_one() -> None:
    assert render('.BI "a " b ", \\\n" c') == "a b, c"


def test_examples_keep_their_lines() -> None:
    source = "Text\n.EX\nint  x;\n\n    y;\n.EE\nmore\n.nf\na\nb\n.SH NEXT\nfilled\nagain"

    assert render(source) == ("Text\nint  x;\n\n    y;\n\nmore\na\nb\n\nNEXT\n\nfilled again")


def test_tags_and_bullets() -> None:
    source = (
        ".TP\n.B EINVAL\nIt is invalid.\n.TQ\nx\n"
        ".IP \\(bu 2\nbullet\n.IP longterm 4\ntext\n.IP\nlast"
    )

    assert render(source) == "EINVAL\nIt is invalid.\n\nx\n\n• bullet\n\nlongterm\ntext\n\nlast"


def test_tables_become_lines() -> None:
    source = (
        ".TS\nallbox;\nlb l\nl l.\nName\tValue\n_\n.B a\t1\nT{\n.BR f (),\n.nh\nT}\tT{\nlong\n"
        "T}\n.TE\nafter"
    )

    assert render(source) == "Name  Value\na 1\nf(),\nlong\n\nafter"


def test_comments_definitions_and_unknown_requests_are_left_out() -> None:
    source = (
        '.\\" comment\n\'\\" t\n.\n.de XX\nhidden\n..\n.ad l\n.nr x 1\ntext\n.UR http://x\nlink\n.UE\n'
        '.B "a ""quoted"" b" \\" remark'
    )

    assert render(source) == 'text http://x link a "quoted" b'


def test_an_empty_page_is_empty() -> None:
    assert render("") == ""
