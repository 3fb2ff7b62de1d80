"""Only whom an envelope is sealed to opens it, and not a byte of it may differ."""

import pytest
from eth_keys.datatypes import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import VerificationError
from openledger.storage.private.envelope import is_envelope, open_envelope, seal_to

KEY, OTHER = b"\x07" * 32, b"\x08" * 32
PUBLIC = PrivateKey(KEY).public_key.to_bytes()


@given(st.binary(max_size=3_000))
def test_what_is_sealed_to_a_key_is_opened_by_it(content: bytes) -> None:
    sealed = seal_to(PUBLIC, "rcp_1", content)

    assert is_envelope(sealed)
    assert open_envelope(KEY, "rcp_1", sealed) == content


def test_another_key_or_name_opens_nothing() -> None:
    sealed = seal_to(PUBLIC, "rcp_1", b"prompt")

    for key, name in ((OTHER, "rcp_1"), (KEY, "rcp_2")):
        with pytest.raises(VerificationError):
            open_envelope(key, name, sealed)
    assert b"prompt" not in sealed
    assert seal_to(PUBLIC, "rcp_1", b"prompt") != sealed


def test_no_byte_of_an_envelope_may_differ() -> None:
    sealed = seal_to(PUBLIC, "rcp_1", b"prompt")
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(VerificationError):
            open_envelope(KEY, "rcp_1", bytes(altered))
        with pytest.raises(VerificationError):
            open_envelope(KEY, "rcp_1", sealed[:place])


@pytest.mark.parametrize("key", [b"", b"\x01" * 64, PUBLIC[:-1], b"\x00" * 64])
def test_a_key_that_is_no_point_is_refused(key: bytes) -> None:
    with pytest.raises(VerificationError, match="no point"):
        seal_to(key, "rcp_1", b"prompt")
