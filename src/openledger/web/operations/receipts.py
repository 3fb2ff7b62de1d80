"""Receipts, for people and for checkers."""

from collections.abc import Mapping

import msgspec

from openledger.core.encoding import decode
from openledger.core.errors import ConflictError
from openledger.core.ids import parse_receipt_id
from openledger.core.signing import sign_typed
from openledger.core.types import Account, Digest
from openledger.flows.money.attribute import Vectors
from openledger.flows.money.verify.bundle import (
    BUNDLE_VERSION,
    FULL_BUNDLE_VERSION,
    PAYER,
    Bundle,
    EpochProof,
    FullBundle,
    OpenedScores,
    Opening,
    pack,
)
from openledger.operations.receipts import (
    EVIDENCE,
    PENDING,
    SHOW,
    EvidenceView,
    MemberView,
    ParentView,
    PartView,
    ReceiptView,
    ShowReceipt,
    WhichEvidence,
)
from openledger.settlement.epoch import tree_of
from openledger.settlement.parts import DATA
from openledger.settlement.price import model_name
from openledger.settlement.receipt import (
    CallReceipt,
    EpochRoot,
    PrivateDigests,
    Receipt,
    SignedCall,
    SignedStatement,
    read_statement,
)
from openledger.settlement.shares import Unscored, member_ppb
from openledger.storage import jobs
from openledger.storage.database import Transaction
from openledger.storage.jobs import ATTRIBUTE_JOB
from openledger.storage.private.envelope import open_envelope
from openledger.storage.records.data import accounts
from openledger.storage.records.model import releases
from openledger.storage.records.money import calls, epochs
from openledger.web.operations.implementation import Implementation
from openledger.web.parts.evidence import evidence_view
from openledger.wiring.platform import Platform
from openledger.wiring.private import open_private, payer_key

_WHY_UNSCORED = {
    Unscored.FREE: "nothing was charged, so there is nothing to divide",
    Unscored.NO_ANSWER: "there was no answer to attribute: the data part goes to commons",
    Unscored.NO_MANIFEST: "{name} cannot be attributed, since it came without a manifest of its "
    "training data: the data part goes to commons",
    Unscored.NOT_FINITE: "{name} gave numbers that are not finite: the data part goes to commons",
}


def show(platform: Platform, wanted: ShowReceipt) -> ReceiptView:
    """Show a receipt; one whose attribution is not done yet has no parts and no bundle."""
    receipt = parse_receipt_id(wanted.receipt)
    with platform.database.read() as transaction:
        call = calls.get(transaction, receipt)
        said = calls.statement(transaction, receipt)
        statement = None if said is None else read_statement(said.record)
        parents = {} if statement is None else _parents(transaction, statement)
        names = {one.address: one.display_name for one in accounts.list_all(transaction)}
        epoch = epochs.holding(transaction, call.gateway, call.gateway_sequence)
        job = jobs.find(transaction, ATTRIBUTE_JOB, receipt)
    names[platform.acts.contracts.deployment.payouts] = "commons"
    signed = decode(call.record, SignedCall)
    if statement is None and (wanted.is_private or wanted.rows is not None):
        raise ConflictError("the attribution is not done yet; ask again in a moment")
    return ReceiptView(
        receipt=receipt,
        model=model_name(signed.body.mix),
        members=_members(signed, statement, parents),
        state=PENDING if statement is None else (epoch.state.value if epoch else "attributed"),
        fee=call.fee,
        input_tokens=signed.body.input_tokens,
        output_tokens=signed.body.output_tokens,
        finish=signed.body.finish,
        refund=signed.body.refund,
        nobody_ppb=0 if statement is None else statement.body.attribution.nobody_ppb,
        notes=_failures(job) if statement is None else _notes(signed, statement),
        parts=() if statement is None else _parts(statement, names),
        epoch=epoch.number if epoch and epoch.state is not epochs.EpochState.CLOSED else None,
        bundle=b"" if statement is None else _bundle(platform, call, epoch, wanted),
    )


def _parents(transaction: Transaction, statement: SignedStatement) -> dict[int, str]:
    """The names of all releases that the members were merged from."""
    merged = statement.body.roles.parent or ()
    found = {one.release: releases.by_number(transaction, one.release) for m in merged for one in m}
    return {
        number: f"release {number}" if release is None else release.full_name
        for number, release in found.items()
    }


def _members(
    call: SignedCall, statement: SignedStatement | None, parents: Mapping[int, str]
) -> tuple[MemberView, ...]:
    if statement is None:
        return tuple(MemberView(one.name, one.weight_ppb, None, None) for one in call.body.mix)
    scored = statement.body.members
    merged = statement.body.roles.parent or ((),) * len(scored)
    return tuple(
        MemberView(
            one.name,
            one.weight_ppb,
            scores.leave_one_out_micronats,
            part,
            tuple(
                ParentView(parents[parent.release], added)
                # A member without scores has parents, and nothing is known of what they added.
                for parent, added in zip(known, scores.parents_micronats or (), strict=False)
            ),
        )
        for one, scores, part, known in zip(
            call.body.mix, scored, member_ppb(scored), merged, strict=True
        )
    )


def _failures(job: jobs.Job | None) -> tuple[str, ...]:
    """Why the attribution of a call is late."""
    if job is None or job.error is None:
        return ()
    return (f"attribution failed and will be tried again: {job.error}",)


def _notes(call: SignedCall, statement: SignedStatement) -> tuple[str, ...]:
    """Why members of the mix have no scores; each reason once."""
    members = zip(call.body.mix, statement.body.members, strict=True)
    said = [
        _WHY_UNSCORED[member.unscored].format(name=mixed.name)
        for mixed, member in members
        if member.unscored is not None
    ]
    return tuple(dict.fromkeys(said))


def _parts(statement: SignedStatement, names: Mapping[Account, str]) -> tuple[PartView, ...]:
    shares = {share.account: share.weight_ppb for share in statement.body.attribution.shares}
    return tuple(
        PartView(
            role=part.role,
            name=names.get(part.account, ""),
            account=part.account,
            amount=part.amount,
            share_ppb=shares.get(part.account) if part.role == DATA else None,
        )
        for part in statement.body.parts
    )


def _bundle(
    platform: Platform, call: calls.Call, epoch: epochs.Epoch | None, wanted: ShowReceipt
) -> bytes:
    with platform.database.read() as transaction:
        previous = _previous(transaction, call)
        pair = next(iter(calls.pairs(transaction, call.gateway, call.gateway_sequence, 1)))
        proof = None if epoch is None else _proof(platform, transaction, epoch, call)
    bundle = Bundle(
        version=BUNDLE_VERSION,
        receipt=_receipt(pair),
        previous=previous,
        epoch=proof,
        openings=_openings(platform, call) if wanted.is_private else (),
    )
    if wanted.rows is None:
        return pack(bundle)
    opened = _opened(platform, call, wanted)
    return pack(
        FullBundle(
            **(msgspec.structs.asdict(bundle) | {"version": FULL_BUNDLE_VERSION}), opened=opened
        )
    )


def _opened(platform: Platform, call: calls.Call, wanted: ShowReceipt) -> tuple[OpenedScores, ...]:
    """The query vectors of a receipt, opened by the payer's key, and rows of the releases."""
    from openledger.flows.money.verify.full import draw, open_scores
    from openledger.storage.records.model.openings import Purpose

    with platform.database.read() as transaction:
        said = calls.statement(transaction, call.id)
    if said is None or said.vectors is None:
        raise ConflictError("the query vectors of this call are erased by now, or were never kept")
    raw = open_envelope(payer_key(platform, call), call.id, said.vectors)
    vectors = decode(raw, Vectors).members
    members = read_statement(said.record).body.members
    opened = []
    for member, queries in zip(members, vectors, strict=True):
        count = max((len(segment.clusters) for segment in member.segments), default=0)
        if not count:  # nothing was owed, so nothing was scored
            opened.append(OpenedScores(member.release, queries, ()))
            continue
        with platform.database.read() as transaction:
            release = releases.by_number(transaction, member.release)
        assert release is not None, "the releases of this home's receipts are its own"
        state = platform.models.open_state(release, Purpose.BUNDLE, call.payer, call.id)
        drawn = draw(wanted.draw, wanted.rows or 0, count)
        opened.append(open_scores(state, member, queries, drawn))
    return tuple(opened)


def _previous(transaction: Transaction, call: calls.Call) -> CallReceipt | None:
    if call.gateway_sequence == 1:
        return None
    rows = calls.in_order(transaction, call.gateway, call.gateway_sequence - 1)
    return decode(next(rows).record, SignedCall).call


def _proof(
    platform: Platform, transaction: Transaction, epoch: epochs.Epoch, call: calls.Call
) -> EpochProof:
    found = calls.digests(transaction, call.gateway, epoch.first, epoch.size)
    tree = tree_of(found, epoch.root)
    domain = platform.acts.contracts.domain("Escrow")
    root = EpochRoot(epoch.first, epoch.size, epoch.root)
    return EpochProof(
        first=epoch.first,
        root=epoch.root,
        proof=tree.prove(call.gateway_sequence - epoch.first),
        signature=sign_typed(domain, root, platform.gateway.private_key),
    )


def _receipt(pair: calls.Pair) -> Receipt:
    return Receipt(decode(pair.call.record, SignedCall), read_statement(pair.statement.record))


def _openings(platform: Platform, call: calls.Call) -> tuple[Opening, ...]:
    private = open_private(platform, call)
    names = (PAYER, *PrivateDigests.__struct_fields__)
    return tuple(
        Opening(name, Digest(private.salt(name).hex()), getattr(private, name)) for name in names
    )


def show_evidence(platform: Platform, wanted: WhichEvidence) -> EvidenceView:
    """Documents by influence and matching passages, for the gateway that served the call."""
    receipt = parse_receipt_id(wanted.receipt)
    gateway = platform.gateway.account
    found = platform.models.show_evidence.run(receipt, gateway, wanted.release)
    return evidence_view(platform.database, found)


IMPLEMENTED = (
    Implementation(SHOW, show),
    Implementation(EVIDENCE, show_evidence),
)
