import pytest

from openledger.core.errors import InvalidInputError
from openledger.datanet.sources.linux_manual import LICENCES, holders, read
from tests.datanet.sources.packages import deb, gz

BODY = ".SH DESCRIPTION\n" + "This page says what the call does, at some length. " * 8
TAG = '.\\" SPDX-License-Identifier: Linux-man-pages-copyleft\n'


def page(*comments: str, tag: str = TAG) -> bytes:
    return gz("".join(f'.\\" {comment}\n' for comment in comments) + tag + BODY)


@pytest.mark.parametrize(
    ("comments", "names"),
    [
        (["Copyright (C) 2006, 2008 Michael Kerrisk <mtk@example.org>"], ("Michael Kerrisk",)),
        (["Copyright 1993 David Metcalfe (david@example.org)"], ("David Metcalfe",)),
        (["Copyright (c) 1992 Drew Eckhardt (d@x.org), March 28, 1992"], ("Drew Eckhardt",)),
        (
            ["and Copyright 2008, Linux Foundation, written by Michael Kerrisk"],
            ("Michael Kerrisk", "Linux Foundation"),
        ),
        (
            ["Copyright (C) 1993 Michael Haardt, Ian Jackson.", "and Copyright 2002 walter harms"],
            ("Michael Haardt", "Ian Jackson", "Walter Harms"),
        ),
        (
            ["Copyright (c) 1989, 1991", "The Regents of the University of California."],
            ("Regents of the University of California",),
        ),
        (["Copyright (c) 1993"], ()),
        (["Copyright (C) 2012, IBM Corporation."], ("IBM",)),
        (["Copyright 2019 Oracle Group. All rights reserved."], ("Oracle Group",)),
        (["© 2017-2020 Mickaël Salaün <m@example.org>"], ("Mickaël Salaün",)),
        (["Permission is granted to copy", "the copyright holder and this notice"], ()),
        (["Copyright 2000 Somebody Whose Name Is So Long That " + "It Is " * 9], ()),
        (["Copyright 2000 Ann Smith2"], ()),
    ],
)
def test_holders_are_read_from_comments(comments: list[str], names: tuple[str, ...]) -> None:
    source = "".join(f'.\\" {comment}\n' for comment in comments)

    assert holders(source) == names


def test_pages_are_grouped_by_their_first_holder() -> None:
    one = deb(
        {
            "usr/share/man/man2/open.2.gz": page("Copyright 1992 Ann Lee", "Copyright 1993 Bo Li"),
            "usr/share/man/man2/old.2.gz": gz(".so man2/open.2"),
            "usr/share/man/man2/nobody.2.gz": page("no holder"),
            "usr/share/man/man2/untagged.2.gz": page("Copyright 1992 Ann Lee", tag=""),
            "usr/share/man/man2/stub.2.gz": gz('.\\" Copyright 1992 Ann Lee\n' + TAG + "short"),
            "usr/share/doc/manpages/copyright": b"",
        }
    )
    other = deb({"usr/share/man/man7/Ascii.7.gz": page("Copyright 1994 Bo Li")})

    ann, bo = read([one, other])

    (document,) = ann.documents
    assert (ann.name, bo.name) == ("Ann Lee", "Bo Li")
    assert document.title == "open(2)"
    assert document.text.startswith("open(2)\n\nDESCRIPTION\n\nThis page")
    assert document.licence in LICENCES
    assert document.key == "open"
    assert document.origin == "man2/open.2.gz"
    assert document.others == ("Bo Li",)
    assert bo.documents[0].key == "ascii"


def test_other_packages_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="no manual pages"):
        read([deb({"usr/bin/x": b""})])
