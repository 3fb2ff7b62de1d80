"""EIP-712: who signed, and what no signature may do."""

import pytest
from eth_keys.datatypes import PrivateKey

from openledger.core import signing
from openledger.core.errors import VerificationError
from openledger.core.types import Account, Digest, Wei, account

KEY = b"\x01" * 32
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DOMAIN = signing.Domain(31337, account("0x" + "ab" * 20))


class Promise(signing.TypedRecord, frozen=True):
    solidity = {"id": "bytes32", "amount": "uint128", "payee": "address"}  # noqa: RUF012

    promise_id: Digest
    amount: Wei
    payee: Account


PROMISE = Promise(Digest("11" * 32), Wei(5), account("0x" + "cd" * 20))


def test_the_signer_is_recovered() -> None:
    signature = signing.sign_typed(DOMAIN, PROMISE, KEY)

    signing.verify_typed(DOMAIN, PROMISE, signature, signing.address_of(KEY))


@pytest.mark.parametrize(
    "domain",
    [signing.Domain(1, DOMAIN.contract), signing.Domain(31337, account("0x" + "ac" * 20))],
)
def test_a_signature_binds_chain_and_contract(domain: signing.Domain) -> None:
    signature = signing.sign_typed(DOMAIN, PROMISE, KEY)

    with pytest.raises(VerificationError, match="is signed by"):
        signing.verify_typed(domain, PROMISE, signature, signing.address_of(KEY))


@pytest.mark.parametrize("signature", ["zz", "00", "00" * 65, "11" * 64 + "09"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(VerificationError):
        signing.recover_typed(DOMAIN, PROMISE, signature)


def test_the_malleable_twin_is_refused() -> None:
    raw = bytes.fromhex(signing.sign_typed(DOMAIN, PROMISE, KEY))
    s = ORDER - int.from_bytes(raw[32:64], "big")
    twin = raw[:32] + s.to_bytes(32, "big") + bytes([55 - raw[64]])

    with pytest.raises(VerificationError, match="high s"):
        signing.recover_typed(DOMAIN, PROMISE, twin.hex())


def test_the_digest_changes_with_every_field() -> None:
    digests = {
        signing.digest_typed(DOMAIN, PROMISE),
        signing.digest_typed(DOMAIN, Promise(Digest("12" * 32), PROMISE.amount, PROMISE.payee)),
        signing.digest_typed(DOMAIN, Promise(PROMISE.promise_id, Wei(6), PROMISE.payee)),
        signing.digest_typed(DOMAIN, Promise(PROMISE.promise_id, Wei(5), DOMAIN.contract)),
    }

    assert len(digests) == 4


def test_a_signature_has_one_form() -> None:
    """Other letter cases, blanks and recovery bytes would be the same signature in other bytes."""
    signature = signing.sign_typed(DOMAIN, PROMISE, KEY)
    v = int(signature[-2:], 16)
    signature_like = [
        signature.upper(),
        signature[:2] + " " + signature[2:],
        signature[:-2] + f"{v - 27:02x}",
        signature[:-2] + f"{v + 10:02x}",
    ]

    for other in signature_like:
        with pytest.raises(VerificationError):
            signing.recover_typed(DOMAIN, PROMISE, other)


@pytest.mark.parametrize("amount", [-1, 2**128])
def test_a_value_that_its_type_cannot_hold_is_refused(amount: int) -> None:
    record = Promise(PROMISE.promise_id, Wei(amount), PROMISE.payee)

    with pytest.raises(VerificationError, match="has no such type"):
        signing.digest_typed(DOMAIN, record)


def test_a_signature_shows_the_key_that_made_it() -> None:
    signature = signing.sign_typed(DOMAIN, PROMISE, KEY)

    assert (
        signing.public_key_of(DOMAIN, PROMISE, signature) == PrivateKey(KEY).public_key.to_bytes()
    )
    with pytest.raises(VerificationError):
        signing.public_key_of(DOMAIN, PROMISE, signature.upper())
