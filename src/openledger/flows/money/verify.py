"""Check one receipt alone: no home, no network, no trust in the gateway.

A bundle holds all that level 1 needs. What the checker must know from elsewhere are the anchors:
chain, escrow, gateway and the epoch's root, which anyone reads from the chain. Without anchors the
bundle is only checked against itself, and the report says so.
"""

import msgspec

from openledger.core.encoding import decode, encode, from_wire, salted_digest
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.merkle import Proof
from openledger.core.merkle import verify as verify_proof
from openledger.core.signing import Domain, verify_typed
from openledger.core.types import Account, Digest, ReceiptId, Wei, account, digest, is_canonical
from openledger.settlement.receipt import (
    NO_PREVIOUS,
    CallReceipt,
    EpochRoot,
    PrivateDigests,
    Receipt,
    StatedMethod,
    leaf,
    payer_commitment,
    verify_call,
    verify_follows,
    verify_statement,
)
from openledger.settlement.shares import check_method

BUNDLE_VERSION = 1
PAYER = "payer"


class EpochProof(msgspec.Struct, frozen=True):
    """Where the receipt stands in its epoch."""

    first: int
    root: Digest
    proof: Proof
    signature: str  # the gateway's, over `EpochRoot`


class Opening(msgspec.Struct, frozen=True):
    """One private field, opened: `payer`, or a name of `PrivateDigests`."""

    name: str
    salt: Digest
    value: str


class Bundle(msgspec.Struct, frozen=True):
    """All that a checker of one receipt needs."""

    version: int
    receipt: Receipt
    previous: CallReceipt | None  # None for a gateway's first call
    epoch: EpochProof | None  # None until it is settled
    openings: tuple[Opening, ...] = ()


class _StatedReceipt(msgspec.Struct):
    statement: StatedMethod


class _StatedBundle(msgspec.Struct):
    """What every version of a bundle has, whatever its statement looks like."""

    receipt: _StatedReceipt


class Anchors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the checker knows from a source of his own."""

    chain_id: int
    escrow: Account
    gateway: Account
    payouts: Account | None = None  # whose address is the commons account
    epoch_root: Digest | None = None
    epoch_first: int | None = None
    epoch_size: int | None = None


class Report(msgspec.Struct, frozen=True):
    """What was checked, in words; every line held."""

    receipt: ReceiptId
    level: str
    is_anchored: bool
    fee: Wei
    checks: tuple[str, ...]


def pack(bundle: Bundle) -> bytes:
    """The bytes of a bundle file."""
    return encode(bundle)


def verify_bundle(raw: bytes, anchors: Anchors | None) -> Report:
    """Check a bundle to level 1 (public).

    Raises:
        VerificationError: one byte of it, or the whole, is not what the gateway signed.
    """
    _check_method(raw)
    bundle = decode(raw, Bundle)
    if bundle.version != BUNDLE_VERSION:
        raise VerificationError(f"bundle version {bundle.version} is unknown to this verifier")
    call = bundle.receipt.call.call
    domain = Domain(call.chain_id, call.escrow)
    if anchors is not None:
        _check_anchors(bundle.receipt, anchors)
        domain = Domain(anchors.chain_id, anchors.escrow)
    verify_call(domain, bundle.receipt.call)
    _check_previous(domain, bundle)
    verify_statement(domain, bundle.receipt.call, bundle.receipt.statement)
    checks = [
        "the gateway signed the call and its attribution",
        "the call continues the gateway's receipt chain",
        "the shares follow from the integer scores",
        "the parts follow from fee, policy and shares, to the wei",
    ]
    if bundle.epoch is not None:
        _check_epoch(domain, bundle, bundle.epoch, anchors)
        checks.append("the receipt stands in its settled epoch")
    elif anchors is not None and anchors.epoch_root is not None:
        raise VerificationError("the bundle does not prove its place in the epoch")
    for opening in bundle.openings:
        _check_opening(bundle.receipt, opening)
        checks.append(f"the opened {opening.name} is what was signed")
    return Report(
        receipt=bundle.receipt.call.body.receipt_id,
        level="L1 public",
        is_anchored=anchors is not None,
        fee=call.fee,
        checks=tuple(checks),
    )


def read_anchors(raw: bytes) -> Anchors:
    """Read an anchors file; addresses as explorers show them, in mixed case, are welcome.

    Raises:
        InvalidInputError: it is not one.
    """
    try:
        read = from_wire(raw, Anchors)
        return msgspec.structs.replace(
            read,
            escrow=account(read.escrow),
            gateway=account(read.gateway),
            payouts=None if read.payouts is None else account(read.payouts),
            epoch_root=None if read.epoch_root is None else digest(read.epoch_root),
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"this is no anchors file: {error}") from error


def _check_method(raw: bytes) -> None:
    try:
        stated = from_wire(raw, _StatedBundle)
    except InvalidInputError as error:
        raise VerificationError(f"these bytes are no bundle: {error}") from error
    check_method(stated.receipt.statement.body.method)


def _check_anchors(receipt: Receipt, anchors: Anchors) -> None:
    call = receipt.call.call
    stated = (call.chain_id, call.escrow, call.gateway)
    known = (anchors.chain_id, anchors.escrow, anchors.gateway)
    if stated != known:
        raise VerificationError(
            f"the receipt names chain, escrow and gateway {stated}, the anchors {known}"
        )
    commons = receipt.statement.body.roles.commons
    if anchors.payouts not in (None, commons):
        raise VerificationError(f"the receipt sends commons' money to {commons}, no commons")


def _check_previous(domain: Domain, bundle: Bundle) -> None:
    call = bundle.receipt.call.call
    if bundle.previous is None and call.previous != NO_PREVIOUS:
        raise VerificationError("the bundle lacks the call receipt before this one")
    verify_follows(domain, call, bundle.previous)


def _check_epoch(
    domain: Domain, bundle: Bundle, epoch: EpochProof, anchors: Anchors | None
) -> None:
    if anchors is not None and anchors.epoch_root is not None:
        stated = (epoch.root, epoch.first, epoch.proof.size)
        known = (anchors.epoch_root, anchors.epoch_first, anchors.epoch_size)
        if stated != known:
            raise VerificationError(f"the bundle names epoch {stated}, the anchors {known}")
    sequence = bundle.receipt.call.call.gateway_sequence
    if epoch.proof.index != sequence - epoch.first:
        raise VerificationError("the receipt stands at another place of its epoch")
    verify_proof(leaf(domain, bundle.receipt), epoch.proof, epoch.root)
    # The root alone does not bind the size: one path can fit trees of several sizes.
    stated_root = EpochRoot(epoch.first, epoch.proof.size, epoch.root)
    verify_typed(domain, stated_root, epoch.signature, bundle.receipt.call.call.gateway)


def _check_opening(receipt: Receipt, opening: Opening) -> None:
    salt = bytes.fromhex(opening.salt)
    if opening.name == PAYER:
        stated = receipt.call.call.payer_commitment
        found = payer_commitment(_payer(opening), salt)
    elif opening.name in PrivateDigests.__struct_fields__:
        stated = getattr(receipt.call.body.private, opening.name)
        found = salted_digest(salt, opening.value.encode())
    else:
        raise VerificationError(f"a receipt has no private field {opening.name!r}")
    if stated != found:
        raise VerificationError(f"the opened {opening.name} is not what was signed")


def _payer(opening: Opening) -> Account:
    if not is_canonical(opening.value, Account):
        raise VerificationError("the opened payer is no address in lower-case hex")
    return Account(opening.value)
