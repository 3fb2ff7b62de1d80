"""The receipt of one call: a pair of signed records that the gateway cannot edit afterwards.

- The **call receipt**, at the end of the answer: a fixed-width EIP-712 struct that a contract can
  read, chained to the gateway's previous one, with running totals and the digest of its body.
- The **attribution statement**, later: bound to the call receipt's digest, with integer gain,
  scores, shares and every part of the fee.

What is private (payer, time, prompt, answer, decoding, client nonce) stands in the body as salted
digests only; each can be opened alone. The format is specified in docs/protocol/receipt.md and
held by `tests/vectors/receipt.json`.
"""

from hashlib import sha256
from itertools import pairwise
from typing import Literal

import msgspec

from openledger.core.encoding import decode, digest_of, encode, from_wire, salted_digest
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.signing import Domain, TypedRecord, digest_typed, sign_typed, verify_typed
from openledger.core.types import Account, Digest, Precision, ReceiptId, Wei, as_bytes
from openledger.settlement.parts import Part, Roles, check_parents, check_roles, fee_parts
from openledger.settlement.price import MixMember, Terms, fee, mixed_terms
from openledger.settlement.shares import (
    Attribution,
    MemberScores,
    Unscored,
    check_audited,
    check_members,
    check_method,
    combine,
    segment_lengths,
)

RECEIPT_VERSION = 1
NO_PREVIOUS = Digest("0" * 64)
NO_TRAINING_ROOT = Digest("0" * 64)  # of a release whose training data nobody knows


class CallReceipt(TypedRecord, frozen=True):
    """One link of a gateway's receipt chain; `Escrow.vy` reads the same struct."""

    solidity = {  # noqa: RUF012 - ClassVar
        "version": "uint256",
        "chainId": "uint256",
        "escrow": "address",
        "gateway": "address",
        "gatewaySequence": "uint256",
        "payerSequence": "uint256",
        "payerTotal": "uint256",
        "gatewayTotal": "uint256",
        "previous": "bytes32",
        "fee": "uint256",
        "termsVersion": "uint256",
        "payerCommitment": "bytes32",
        "body": "bytes32",
    }

    version: int
    chain_id: int
    escrow: Account
    gateway: Account
    gateway_sequence: int  # of all this gateway's calls, from 1, without gaps
    payer_sequence: int  # of this payer's calls at this gateway, from 1, without gaps
    payer_total: Wei  # all fees of this payer at this gateway, this one included
    gateway_total: Wei  # all fees of this gateway, this one included
    previous: Digest  # digest of the gateway's previous call receipt
    fee: Wei
    terms_version: int
    payer_commitment: Digest  # sha256(payer's 20 bytes || salt)
    body: Digest


class AttributionStatement(TypedRecord, frozen=True):
    """Binds the attribution of one call to its receipt."""

    solidity = {"version": "uint256", "call": "bytes32", "body": "bytes32"}  # noqa: RUF012 - ClassVar

    version: int
    call: Digest
    body: Digest


class EpochRoot(TypedRecord, frozen=True):
    """What a gateway says its epoch is; a checker without the chain holds it to that."""

    solidity = {"first": "uint256", "size": "uint256", "root": "bytes32"}  # noqa: RUF012 - ClassVar

    first: int
    size: int
    root: Digest


class Gateway(msgspec.Struct, frozen=True):
    """Who signs receipts, and for which escrow."""

    account: Account
    private_key: bytes
    domain: Domain  # of the contract Escrow


class PrivateDigests(msgspec.Struct, frozen=True):
    """Salted digests of what only the parties may read; see `Private`."""

    time: Digest  # microseconds since 1970
    prompt: Digest  # every token id that the model saw before the answer
    answer: Digest  # the token ids handed to the caller
    decoding: Digest  # temperature, top-p and the rest
    nonce: Digest  # the client's nonce, or its seed


class Private(msgspec.Struct, frozen=True):
    """The private ring of one receipt; every field can be opened alone, with its own salt."""

    secret: Digest  # 32 random bytes, from which the salts follow
    payer: Account
    time: str  # microseconds since 1970
    prompt: str  # token ids, separated by blanks
    answer: str
    decoding: str  # canonical JSON
    nonce: str  # nonce or seed | place among the payer's calls | release; its sha256 seeds sampling

    def salt(self, field: str) -> bytes:
        """The 32-byte salt of one field."""
        return sha256(as_bytes(self.secret) + field.encode()).digest()

    def commitment(self) -> Digest:
        """The payer commitment of the call receipt."""
        return payer_commitment(self.payer, self.salt("payer"))

    def digests(self) -> PrivateDigests:
        """What the public body says of these fields."""
        fields = PrivateDigests.__struct_fields__
        salted = {f: salted_digest(self.salt(f), getattr(self, f).encode()) for f in fields}
        return PrivateDigests(**salted)

    def prompt_ids(self) -> list[int]:
        """The token ids that the model saw before the answer."""
        return [int(token) for token in self.prompt.split()]

    def answer_ids(self) -> list[int]:
        """The token ids that were handed to the caller."""
        return [int(token) for token in self.answer.split()]


class CallBody(msgspec.Struct, frozen=True):
    """What a call receipt says in full; public but for the salted digests."""

    receipt_id: ReceiptId
    base: Digest
    mix: tuple[MixMember, ...]
    terms: Terms
    input_tokens: int
    output_tokens: int  # handed to the socket
    finish: str  # stop, length, cancelled, deadline, slow_reader or error
    refund: str | None  # why the fee is 0 although the price is not
    engine: str  # build and determinism class
    method: int  # version of the attribution method
    private: PrivateDigests
    # What the caller asked for; unset: influence alone, as on every call.
    attribution: Literal["audited"] | msgspec.UnsetType = msgspec.UNSET


class StatementBody(msgspec.Struct, frozen=True):
    """Whose data made the answer, and every part of the fee."""

    receipt_id: ReceiptId
    method: int
    precision: Precision  # in which the models computed gain and query vectors
    members: tuple[MemberScores, ...]
    attribution: Attribution
    roles: Roles
    parts: tuple[Part, ...]


class SignedCall(msgspec.Struct, frozen=True):
    """A call receipt with its body and the gateway's signature."""

    call: CallReceipt
    body: CallBody
    signature: str


class SignedStatement(msgspec.Struct, frozen=True):
    """An attribution statement with its body and the gateway's signature."""

    statement: AttributionStatement
    body: StatementBody
    signature: str


class _Method(msgspec.Struct):
    method: int


class StatedMethod(msgspec.Struct):
    """What every version of a statement has, whatever its members look like."""

    body: _Method


class Receipt(msgspec.Struct, frozen=True):
    """The pair; final."""

    call: SignedCall
    statement: SignedStatement


def sign_call(domain: Domain, call: CallReceipt, body: CallBody, private_key: bytes) -> SignedCall:
    """Sign a call receipt whose `body` is this body's digest."""
    return SignedCall(call, body, sign_typed(domain, call, private_key))


def make_statement(
    domain: Domain,
    signed: SignedCall,
    precision: Precision,
    members: tuple[MemberScores, ...],
    roles: Roles,
    private_key: bytes,
) -> SignedStatement:
    """Derive shares and parts from integer scores, and sign them."""
    attribution = combine(members)
    parts = fee_parts(signed.call.fee, signed.body.terms.policy, roles, members, attribution)
    body = StatementBody(
        receipt_id=signed.body.receipt_id,
        method=signed.body.method,
        precision=precision,
        members=members,
        attribution=attribution,
        roles=roles,
        parts=parts,
    )
    call = digest_typed(domain, signed.call)
    statement = AttributionStatement(RECEIPT_VERSION, call, digest_of(body))
    return SignedStatement(statement, body, sign_typed(domain, statement, private_key))


def read_statement(raw: bytes) -> SignedStatement:
    """Read a stored statement back.

    Raises:
        VerificationError: it is none, or follows a method that this version does not know.
    """
    check_method(from_wire(raw, StatedMethod).body.method)
    return decode(raw, SignedStatement)


def leaf(domain: Domain, receipt: Receipt) -> bytes:
    """The epoch leaf of a pair: both EIP-712 digests, 64 bytes."""
    return leaf_of(
        digest_typed(domain, receipt.call.call), digest_typed(domain, receipt.statement.statement)
    )


def leaf_of(call: Digest, statement: Digest) -> bytes:
    """The epoch leaf of the pair with these digests."""
    return as_bytes(call) + as_bytes(statement)


def payer_commitment(payer: Account, salt: bytes) -> Digest:
    """Hide the payer, so that only who knows the 32-byte salt can link the receipt."""
    return Digest(sha256(as_bytes(payer) + salt).hexdigest())


def verify_call(domain: Domain, signed: SignedCall) -> None:
    """Check one call receipt by itself: signature, domain, body, fee.

    Raises:
        VerificationError: something does not hold.
    """
    call, body = signed.call, signed.body
    if call.version != RECEIPT_VERSION:
        raise VerificationError(f"receipt version {call.version} is unknown to this verifier")
    if (call.chain_id, call.escrow) != (domain.chain_id, domain.contract):
        raise VerificationError("the receipt names another chain or escrow than its domain")
    if digest_of(body) != call.body:
        raise VerificationError("the receipt's body is not the one that was signed")
    verify_typed(domain, call, signed.signature, call.gateway)
    if call.terms_version != body.terms.version:
        raise VerificationError("struct and body name different terms")
    _check_terms(body)
    if min(body.input_tokens, body.output_tokens) < 0:
        raise VerificationError("the receipt counts fewer than 0 tokens")
    owed = fee(body.terms.price, body.input_tokens, body.output_tokens)
    if call.fee != (0 if body.refund else owed):
        raise VerificationError(f"the fee is {call.fee} wei, the price makes it {owed}")


def verify_follows(domain: Domain, call: CallReceipt, previous: CallReceipt | None) -> None:
    """Check that a call receipt continues the gateway's chain without gap or edit.

    Raises:
        VerificationError: it does not.
    """
    expected = (1, int(call.fee), NO_PREVIOUS)
    if previous is not None:
        expected = (
            previous.gateway_sequence + 1,
            previous.gateway_total + call.fee,
            digest_typed(domain, previous),
        )
    if (call.gateway_sequence, call.gateway_total, call.previous) != expected:
        raise VerificationError(
            f"receipt {call.gateway_sequence} does not continue the gateway's receipt chain"
        )


def verify_statement(domain: Domain, signed: SignedCall, statement: SignedStatement) -> None:
    """Recompute shares and parts from the integer scores, and check the signature.

    Raises:
        VerificationError: something does not hold.
    """
    body, head = statement.body, statement.statement
    if head.version != RECEIPT_VERSION or body.method != signed.body.method:
        raise VerificationError("call and statement name different versions")
    check_method(body.method)
    if head.call != digest_typed(domain, signed.call) or head.body != digest_of(body):
        raise VerificationError("the statement belongs to another call or body")
    verify_typed(domain, head, statement.signature, signed.call.gateway)
    if body.receipt_id != signed.body.receipt_id:
        raise VerificationError("call and statement have different receipt ids")
    _check_members(signed, body)
    if combine(body.members) != body.attribution:
        raise VerificationError("the shares do not follow from the scores")
    check_roles(body.roles, signed.call.gateway, len(body.members))
    check_parents(body.roles, body.members)
    policy = signed.body.terms.policy
    if fee_parts(signed.call.fee, policy, body.roles, body.members, body.attribution) != body.parts:
        raise VerificationError("the parts do not follow from fee, policy and shares")


def why_unscored(call: SignedCall, member: MixMember) -> Unscored | None:
    """The reason for which a member can have no scores, as far as the call alone tells."""
    tokens = call.body.output_tokens
    if call.call.fee == 0:
        return Unscored.FREE
    if member.training_root == NO_TRAINING_ROOT:
        return Unscored.NO_MANIFEST
    if tokens == 0 or call.body.input_tokens + tokens < 2:
        return Unscored.NO_ANSWER
    return None


def _check_terms(body: CallBody) -> None:
    """Several releases answer at terms that follow from their own, one at its own."""
    stated = [member.terms for member in body.mix]
    known = [terms for terms in stated if isinstance(terms, Terms)]
    if len(known) != (len(stated) if len(stated) > 1 else 0):
        raise VerificationError("each member of a mix states its terms, a release alone does not")
    try:
        if known and mixed_terms(known) != body.terms:
            raise VerificationError("the terms of the call do not follow from its members'")
    except InvalidInputError as error:
        raise VerificationError(f"the call has no terms: {error}") from error


def _check_members(signed: SignedCall, body: StatementBody) -> None:
    mix = signed.body.mix
    if tuple(m.release for m in body.members) != tuple(m.release for m in mix):
        raise VerificationError("the statement attributes other releases than answered")
    if len({member.release for member in mix}) != len(mix):
        raise VerificationError("a release stands twice in the mix")
    for member, mixed in zip(body.members, mix, strict=True):
        if member.weight_ppb != mixed.weight_ppb:
            raise VerificationError("call and statement weigh the mix differently")
        reason = why_unscored(signed, mixed)
        if member.unscored not in ((None, Unscored.NOT_FINITE) if reason is None else (reason,)):
            raise VerificationError(
                f"release {member.release} has no scores as {member.unscored}, "
                f"the call makes it {reason}"
            )
        cut = [segment.tokens for segment in member.segments]
        if cut and cut != segment_lengths(signed.body.output_tokens):
            raise VerificationError("the segments are not those that the method cuts")
    check_members(body.method, body.members)
    check_audited(body.members, is_asked=signed.body.attribution is not msgspec.UNSET)


def verify_chain(domain: Domain, calls: tuple[CallReceipt, ...]) -> None:
    """Check a run of consecutive call receipts of one gateway.

    Raises:
        VerificationError: a gap, an edit, or totals that do not chain.
    """
    for previous, call in pairwise(calls):
        verify_follows(domain, call, previous)


def canonical(receipt: Receipt) -> bytes:
    """The bytes in which a pair is stored and sent."""
    return encode(receipt)
