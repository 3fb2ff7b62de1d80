"""Vouchers bind payer, gateway, chain, escrow and the payer's own conditions."""

import msgspec
import pytest
from eth_keys.datatypes import PrivateKey

from openledger.core.errors import VerificationError
from openledger.core.signing import Domain, address_of
from openledger.core.types import Digest, Wei, account
from openledger.settlement.voucher import (
    Channel,
    channel_id,
    payer_key,
    sign_voucher,
    verify_voucher,
)

KEY = b"\x09" * 32
TOKEN = account("0x" + "70" * 20)
DOMAIN = Domain(31337, account("0x" + "e5" * 20))
CHANNEL = Channel(
    payer=address_of(KEY),
    gateway=account("0x" + "bb" * 20),
    expiry=1_000,
    price_ceiling=Wei(10),
    daily_cap=Wei(10),
    min_data_bps=0,
    salt=Digest("00" * 32),
)


def test_the_controllers_signature_holds_and_nobody_elses() -> None:
    """An account is an address for ever; the key that signs for it may be another one."""
    other = b"\x0a" * 32
    signed = sign_voucher(DOMAIN, TOKEN, CHANNEL, Wei(5), other)

    verify_voucher(DOMAIN, TOKEN, signed, address_of(other))
    with pytest.raises(VerificationError):
        verify_voucher(DOMAIN, TOKEN, signed, CHANNEL.payer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gateway", TOKEN),
        ("expiry", 1_001),
        ("price_ceiling", Wei(11)),
        ("daily_cap", Wei(11)),
        ("min_data_bps", 1),
        ("salt", Digest("01" * 32)),
    ],
)
def test_every_condition_is_signed(field: str, value: object) -> None:
    signed = sign_voucher(DOMAIN, TOKEN, CHANNEL, Wei(5), KEY)
    changed = msgspec.structs.replace(CHANNEL, **{field: value})

    assert channel_id(DOMAIN, TOKEN, changed) != channel_id(DOMAIN, TOKEN, CHANNEL)
    with pytest.raises(VerificationError):
        verify_voucher(
            DOMAIN, TOKEN, msgspec.structs.replace(signed, channel=changed), CHANNEL.payer
        )


def test_a_raised_limit_is_found() -> None:
    signed = sign_voucher(DOMAIN, TOKEN, CHANNEL, Wei(5), KEY)

    with pytest.raises(VerificationError):
        verify_voucher(DOMAIN, TOKEN, msgspec.structs.replace(signed, limit=Wei(6)), CHANNEL.payer)


def test_a_voucher_shows_the_key_that_signed_it() -> None:
    signed = sign_voucher(DOMAIN, TOKEN, CHANNEL, Wei(5), KEY)
    key = payer_key(DOMAIN, TOKEN, signed)

    assert key == PrivateKey(KEY).public_key.to_bytes()
    with pytest.raises(VerificationError):
        payer_key(DOMAIN, TOKEN, msgspec.structs.replace(signed, signature="00" * 65))
