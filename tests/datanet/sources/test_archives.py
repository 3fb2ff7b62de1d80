import pytest

from openledger.core.errors import InvalidInputError
from openledger.datanet.sources.archives import gunzip, read_deb, read_wheel
from tests.datanet.sources.packages import ar, deb, gz, wheel


def test_a_wheel_gives_the_files_wanted_in_order() -> None:
    raw = wheel({"b/2.abc": "2", "b/1.abc": "1", "b/1.txt": "", "c/1.abc": ""})

    assert read_wheel(raw, ("b/",), ".abc") == {"b/1.abc": b"1", "b/2.abc": b"2"}


def test_a_debian_package_gives_regular_files_in_order() -> None:
    raw = deb({"usr/b": b"2", "usr/a": b"1", "etc/c": b"3"}, links=("usr/link",))

    assert read_deb(raw, "usr/") == {"usr/a": b"1", "usr/b": b"2"}


def test_a_damaged_wheel_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no wheel"):
        read_wheel(b"no zip", ("b/",), ".abc")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"no ar", "does not begin"),
        (ar({"debian-binary": b"2.0\n"}), "no data.tar"),
        (ar({"data.tar.xz": b"no tar"}), "damaged"),
        (b"!<arch>\n" + b"data.tar.xz".ljust(48) + b"many".ljust(12), "damaged"),
    ],
)
def test_a_damaged_debian_package_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_deb(raw, "usr/")


def test_gzip_is_read_as_utf8() -> None:
    assert gunzip(gz("kañv")) == "kañv"
    with pytest.raises(InvalidInputError, match="no gzip"):
        gunzip(b"plain")
