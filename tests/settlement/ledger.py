"""Receipts made as a gateway makes them, for the tests of money."""

from openledger.core.encoding import digest_of
from openledger.core.ids import receipt_id
from openledger.core.signing import Domain, address_of, digest_typed
from openledger.core.types import Account, Digest, Wei, account
from openledger.settlement.parts import Roles
from openledger.settlement.price import MixMember, Price, SplitPolicy, Terms, fee
from openledger.settlement.receipt import (
    NO_PREVIOUS,
    RECEIPT_VERSION,
    CallBody,
    CallReceipt,
    Private,
    Receipt,
    SignedCall,
    make_statement,
    sign_call,
)
from openledger.settlement.shares import ClusterScore, DocumentScore, Gain, MemberScores, Segment

GATEWAY_KEY = b"\x07" * 32
GATEWAY = address_of(GATEWAY_KEY)
DOMAIN = Domain(31337, account("0x" + "e5" * 20))
PAYOUTS = account("0x" + "9a" * 20)
PAYER = account("0x" + "cc" * 20)
ALICE, BOB = account("0x" + "a1" * 20), account("0x" + "b0" * 20)
TERMS = Terms(1, Price(Wei(1_000), Wei(3_001), Wei(7)), SplitPolicy())
ROLES = Roles(commons=PAYOUTS, platform=account("0x" + "70" * 20), builders=(BOB,), node=GATEWAY)
SECRET = Digest("05" * 32)


def scores(alice: int = 30, bob: int = 10, gain: int = 5_000_000) -> tuple[MemberScores, ...]:
    """One member with one cluster a contributor."""
    clusters = (
        ClusterScore(0, alice, 0, (DocumentScore(0, ALICE, alice),)),
        ClusterScore(1, bob, 0, (DocumentScore(1, BOB, bob),)),
    )
    segment = Segment(20, Gain(gain, 10_000_000, 900_000_000, 2), Digest("dd" * 32), clusters)
    return (MemberScores(1, 10**9, gain, None, (segment,)),)


def private(number: int, payer: Account = PAYER) -> Private:
    """The private ring of the gateway's call `number`."""
    return Private(SECRET, payer, str(number), "1 2 3", "4 5", "{}", "nonce")


MIX = (MixMember(1, "bob/tunes@1", Digest("ad" * 32), Digest("77" * 32), 10**9),)


def body(
    number: int,
    *,
    output_tokens: int = 20,
    refund: str | None = None,
    mix: tuple[MixMember, ...] = MIX,
) -> CallBody:
    """The body of the gateway's call `number`."""
    return CallBody(
        receipt_id=receipt_id(number.to_bytes(16, "big")),
        base=Digest("ba" * 32),
        mix=mix,
        terms=TERMS,
        input_tokens=11,
        output_tokens=output_tokens,
        finish="stop",
        refund=refund,
        engine="test",
        method=2,
        private=private(number).digests(),
    )


def call(previous: CallReceipt | None, payer: Account = PAYER, **of_body: object) -> SignedCall:
    """The call that follows `previous`, of one payer."""
    number = previous.gateway_sequence + 1 if previous else 1
    made = body(number, **of_body)  # type: ignore[arg-type]  # the keywords of `body`
    owed = fee(TERMS.price, made.input_tokens, made.output_tokens)
    cost = Wei(0) if made.refund else owed
    struct = CallReceipt(
        version=RECEIPT_VERSION,
        chain_id=DOMAIN.chain_id,
        escrow=DOMAIN.contract,
        gateway=GATEWAY,
        gateway_sequence=number,
        payer_sequence=number,
        payer_total=Wei((previous.payer_total if previous else 0) + cost),
        gateway_total=Wei((previous.gateway_total if previous else 0) + cost),
        previous=digest_typed(DOMAIN, previous) if previous else NO_PREVIOUS,
        fee=cost,
        terms_version=TERMS.version,
        payer_commitment=private(number, payer).commitment(),
        body=digest_of(made),
    )
    return sign_call(DOMAIN, struct, made, GATEWAY_KEY)


def pair(previous: CallReceipt | None, **of_body: object) -> Receipt:
    """A whole receipt that follows `previous`."""
    signed = call(previous, **of_body)  # type: ignore[arg-type]  # the keywords of `body`
    return Receipt(signed, make_statement(DOMAIN, signed, "float32", scores(), ROLES, GATEWAY_KEY))


def run(length: int) -> list[Receipt]:
    """The gateway's first `length` receipts."""
    receipts: list[Receipt] = []
    for _ in range(length):
        receipts.append(pair(receipts[-1].call.call if receipts else None))
    return receipts
