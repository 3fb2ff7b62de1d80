"""Level 1, public: one receipt alone, with no home, no network and no trust in the gateway.

What the checker must know from elsewhere are the anchors: chain, escrow, gateway and the epoch's
root, which anyone reads from the chain. Without anchors the bundle is only checked against itself,
and the report says so.
"""

from openledger.core.encoding import salted_digest
from openledger.core.errors import VerificationError
from openledger.core.merkle import verify as verify_proof
from openledger.core.signing import Domain, verify_typed
from openledger.core.types import Account, is_canonical
from openledger.flows.money.verify.anchors import Anchors
from openledger.flows.money.verify.bundle import (
    PAYER,
    Bundle,
    EpochProof,
    Opening,
    Report,
    read_bundle,
)
from openledger.settlement.receipt import (
    NO_PREVIOUS,
    EpochRoot,
    PrivateDigests,
    Receipt,
    leaf,
    payer_commitment,
    verify_call,
    verify_follows,
    verify_statement,
)

LEVEL = "L1 public"


def verify_bundle(raw: bytes, anchors: Anchors | None) -> Report:
    """Check a bundle to level 1 (public).

    Raises:
        VerificationError: one byte of it, or the whole, is not what the gateway signed.
    """
    bundle = read_bundle(raw)
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
        level=LEVEL,
        is_anchored=anchors is not None,
        fee=call.fee,
        checks=tuple(checks),
    )


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
    roles = receipt.statement.body.roles
    paid = [(one.release, one.account) for parents in roles.parent or () for one in parents]
    paid += [
        (member.release, account)
        for member, account in zip(receipt.call.body.mix, roles.builders, strict=False)
    ]
    for number, account in paid:
        release = anchors.release(number)
        if release is not None and release.builder not in (None, account):
            raise VerificationError(f"another built release {number} than who is paid for it")
    for member in receipt.call.body.mix:
        release = anchors.release(member.release)
        if release is None:
            continue
        named = (receipt.call.body.base, member.adapter, member.training_root)
        if named != (release.base, release.adapter, release.training_root):
            raise VerificationError(f"release {member.release} is another one on chain")


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
