"""A receipt checked alone: no byte of it may differ, with and without anchors."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from eth_utils.address import to_checksum_address

from openledger.core.encoding import decode, encode
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Digest
from openledger.flows.money.verify.anchors import Anchors, read_anchors
from openledger.flows.money.verify.bundle import Bundle, Opening
from openledger.flows.money.verify.public import verify_bundle
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.epochs import WhichEpoch
from openledger.operations.receipts import ShowReceipt
from openledger.web.operations import epochs, receipts
from tests import market as fair

# A bundle, and whether it is held to anchors; unsettled receipts stand in no anchored epoch.
CASES = [
    ("public", True),
    ("public", False),
    ("private", True),
    ("private", False),
    ("unsettled", False),
]
FEW = 66  # flipped bytes of each case in the quick test


class Evidence(msgspec.Struct, frozen=True):
    """The second of three receipts of a settled epoch."""

    public: bytes
    private: bytes
    unsettled: bytes
    first: bytes
    anchors: Anchors


@pytest.fixture(scope="module")
def evidence(
    market_home: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Evidence]:
    home = tmp_path_factory.mktemp("evidence") / "home"
    with fair.open_copy(market_home, home) as platform:
        made = fair.paid_calls(platform, tokenizer, 3)
        wanted = ShowReceipt(made[1].receipt_id)
        unsettled = receipts.show(platform, wanted)
        platform.settle.run()
        yield Evidence(
            public=receipts.show(platform, wanted).bundle,
            private=receipts.show(platform, ShowReceipt(wanted.receipt, is_private=True)).bundle,
            unsettled=unsettled.bundle,
            first=receipts.show(platform, ShowReceipt(made[0].receipt_id)).bundle,
            anchors=epochs.show(platform, WhichEpoch()).anchors,
        )


def test_every_kind_of_bundle_holds(evidence: Evidence) -> None:
    public = verify_bundle(evidence.public, evidence.anchors)
    private = verify_bundle(evidence.private, evidence.anchors)
    alone = verify_bundle(evidence.unsettled, None)

    assert public.is_anchored
    assert "the receipt stands in its settled epoch" in public.checks
    assert len(private.checks) > len(public.checks)
    assert not alone.is_anchored
    assert len(alone.checks) == len(public.checks) - 1
    assert verify_bundle(evidence.first, None).receipt != public.receipt
    assert public.fee == private.fee > 0


def accepted(raw: bytes, anchors: Anchors | None, places: Iterable[int]) -> list[int]:
    """The places where a flipped bit, drawn with a fixed seed, goes unnoticed."""
    draw = random.Random(7)
    found = []
    for place in places:
        altered = bytearray(raw)
        altered[place] ^= 1 << draw.randrange(8)
        try:
            verify_bundle(bytes(altered), anchors)
        except VerificationError:
            continue
        found.append(place)
    return found


@pytest.mark.parametrize(("kind", "is_anchored"), CASES)
def test_bytes_all_over_a_bundle_may_not_differ(
    evidence: Evidence, kind: str, is_anchored: bool
) -> None:
    raw = getattr(evidence, kind)
    anchors = evidence.anchors if is_anchored else None
    # Evenly spread; each case begins elsewhere, so that they try different places.
    begin = CASES.index((kind, is_anchored))
    places = range(begin, len(raw), len(raw) // FEW)

    assert len(places) >= FEW
    assert accepted(raw, anchors, places) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["public", "private", "unsettled"])
def test_no_byte_of_a_bundle_may_differ(evidence: Evidence, kind: str) -> None:
    """Every byte, one bit each; of a settled receipt every other byte is held to anchors."""
    raw = getattr(evidence, kind)
    anchors = None if kind == "unsettled" else evidence.anchors

    assert accepted(raw, anchors, range(0, len(raw), 2)) == []
    assert accepted(raw, None, range(1, len(raw), 2)) == []


def test_every_character_of_an_opening_counts(evidence: Evidence) -> None:
    """Salts and values are what a party shows, so they are tried at every place."""
    bundle = decode(evidence.private, Bundle)
    for place, opening in enumerate(bundle.openings):
        for other in (
            msgspec.structs.replace(opening, salt=Digest("0" * 64)),
            msgspec.structs.replace(opening, value=opening.value + "x"),
            msgspec.structs.replace(opening, value="z" + opening.value[1:]),
            msgspec.structs.replace(opening, name="other"),
        ):
            openings = (*bundle.openings[:place], other, *bundle.openings[place + 1 :])
            altered = msgspec.structs.replace(bundle, openings=openings)
            with pytest.raises(VerificationError):
                verify_bundle(encode(altered), None)
        salt = opening.salt.encode()
        for forged in (b"z" + salt[1:], salt[:-2], salt.upper()):
            with pytest.raises(VerificationError):
                verify_bundle(evidence.private.replace(salt, forged), None)


def altered(evidence: Evidence, **changes: object) -> bytes:
    return encode(msgspec.structs.replace(decode(evidence.public, Bundle), **changes))


def test_a_bundle_is_refused_when_a_part_is_missing_or_from_elsewhere(evidence: Evidence) -> None:
    other = decode(evidence.first, Bundle)
    bundle = decode(evidence.public, Bundle)
    assert bundle.epoch is not None
    moved = msgspec.structs.replace(bundle.epoch, first=bundle.epoch.first + 1)

    for raw in (
        altered(evidence, version=2),
        altered(evidence, previous=None),
        altered(evidence, previous=bundle.receipt.call.call),
        altered(evidence, receipt=other.receipt),
        altered(evidence, epoch=moved),
        altered(evidence, epoch=other.epoch),
        b"",
        b"{}",
        b"\xff\xfe",
        evidence.public[:-1],
    ):
        with pytest.raises(VerificationError):
            verify_bundle(raw, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain_id", 1),
        ("escrow", "0x" + "1" * 40),
        ("gateway", "0x" + "2" * 40),
        ("epoch_root", "3" * 64),
        ("epoch_first", 2),
        ("epoch_size", 9),
    ],
)
def test_other_anchors_refuse_the_bundle(evidence: Evidence, field: str, value: object) -> None:
    anchors = msgspec.structs.replace(evidence.anchors, **{field: value})

    with pytest.raises(VerificationError, match="the anchors"):
        verify_bundle(evidence.public, anchors)


def test_an_anchored_epoch_must_be_proved(evidence: Evidence) -> None:
    with pytest.raises(VerificationError, match="does not prove its place"):
        verify_bundle(evidence.unsettled, evidence.anchors)
    plain = msgspec.structs.replace(
        evidence.anchors, epoch_root=None, epoch_first=None, epoch_size=None
    )
    assert verify_bundle(evidence.unsettled, plain).is_anchored


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"[]", b'{"chain_id": 1}', b'{"chain": 1}', b"\xff", b"[" * 100_000),
        b'{"chain_id":1,"escrow":"0xABC","gateway":"0x%b"}' % (b"1" * 40),
        b'{"chain_id":1,"escrow":"\xff","gateway":"0x%b"}' % (b"1" * 40),
        b'{"chain_id":1,"escrow":"0x%b","gateway":"0x%b","epoch_root":"7"}' % ((b"1" * 40,) * 2),
        b'{"chain_id":1,"escrow":"0x%b","gateway":"0x%b","payouts":"x"}' % ((b"1" * 40,) * 2),
    ],
)
def test_an_anchors_file_is_read_strictly(raw: bytes) -> None:
    with pytest.raises(InvalidInputError, match="no anchors file"):
        read_anchors(raw)


def test_anchors_read_back(evidence: Evidence) -> None:
    assert read_anchors(msgspec.json.encode(evidence.anchors)) == evidence.anchors


def test_anchors_are_taken_as_explorers_show_them(evidence: Evidence) -> None:
    known = evidence.anchors
    assert known.epoch_root is not None
    assert known.payouts is not None
    shown = msgspec.structs.replace(
        known,
        escrow=to_checksum_address(known.escrow),
        gateway=to_checksum_address(known.gateway),
        payouts=to_checksum_address(known.payouts),
        epoch_root="0x" + known.epoch_root.upper(),
    )

    assert shown != known
    assert read_anchors(msgspec.json.encode(shown)) == known


def test_an_opening_names_a_field_of_the_receipt(evidence: Evidence) -> None:
    opening = Opening("wallet", Digest("0" * 64), "x")

    with pytest.raises(VerificationError, match="no private field 'wallet'"):
        verify_bundle(altered(evidence, openings=(opening,)), None)
