"""After the last token: the fee, and the receipt in the transaction that charges the hold."""

import msgspec

from openledger.core.encoding import digest_of, encode
from openledger.core.signing import digest_typed
from openledger.core.types import Digest, Wei
from openledger.flows.money.infer.request import (
    CallResult,
    Desk,
    Prepared,
    StoredAnswer,
)
from openledger.settlement import receipt as receipts
from openledger.settlement.price import fee
from openledger.storage import jobs
from openledger.storage.database import Transaction
from openledger.storage.jobs import ATTRIBUTE_JOB
from openledger.storage.records.money import calls, idempotency


class Ending(msgspec.Struct, frozen=True):
    """How an answer ended."""

    handed: list[int]  # tokens that the caller pays for
    text: str
    finish: str
    refund: str | None = None
    cached_tokens: int = 0


def charge(desk: Desk, prepared: Prepared, ending: Ending) -> CallResult:
    """Take the fee of what was handed out, sign the receipt and queue its attribution."""
    now = desk.clock()
    private = receipts.Private(
        secret=Digest(desk.random(32).hex()),
        payer=prepared.request.payer,
        time=str(prepared.started_us),
        prompt=" ".join(map(str, prepared.prompt_ids)),
        answer=" ".join(map(str, ending.handed)),
        decoding=encode(prepared.request.decoding).decode(),
        nonce=prepared.nonce,
    )
    body = _body(desk, prepared, private, ending)
    with desk.database.transaction() as transaction:
        signed = _signed(transaction, desk, private, body)
        call = signed.call
        new = calls.NewCall(
            id=prepared.receipt,
            gateway_sequence=call.gateway_sequence,
            payer_sequence=call.payer_sequence,
            fee=call.fee,
            gateway_total=call.gateway_total,
            payer_total=call.payer_total,
            previous=call.previous,
            digest=digest_typed(desk.gateway.domain, call),
            record=encode(signed),
            payer_salt=private.salt("payer"),
            private=desk.sealer.seal(prepared.receipt, encode(private)),
        )
        calls.append(transaction, new, now)
        # One receipt without its statement would hold up every later payout: it never gives up.
        job = jobs.NewJob(
            ATTRIBUTE_JOB, prepared.receipt, prepared.receipt.encode(), jobs.NEVER_DIES
        )
        jobs.enqueue(transaction, job, now)
        result = CallResult(
            receipt_id=prepared.receipt,
            text=ending.text,
            finish=ending.finish,
            input_tokens=body.input_tokens,
            output_tokens=body.output_tokens,
            fee=call.fee,
            refund=ending.refund,
            cached_tokens=ending.cached_tokens,
        )
        _remember(transaction, desk, prepared, result)
    return result


def _remember(transaction: Transaction, desk: Desk, prepared: Prepared, result: CallResult) -> None:
    key = prepared.request.reservation(desk.sealer)
    if key is None:
        return
    if result.refund is not None:
        # Our fault: the same request may be tried again.
        idempotency.give_up(transaction, key)
        return
    answer = encode(StoredAnswer(result))
    sealed = desk.sealer.seal(f"answer/{key.scope}/{key.key}", answer)
    idempotency.answer(transaction, key, sealed)


def _body(
    desk: Desk,
    prepared: Prepared,
    private: receipts.Private,
    ending: Ending,
) -> receipts.CallBody:
    choice = prepared.choice
    return receipts.CallBody(
        receipt_id=prepared.receipt,
        base=choice.base,
        mix=choice.mix,
        terms=choice.terms,
        input_tokens=len(prepared.prompt_ids),
        output_tokens=len(ending.handed),
        finish=ending.finish,
        refund=ending.refund,
        engine=desk.engine.caps.determinism,
        method=desk.config.method,
        private=private.digests(),
        attribution="audited" if prepared.request.is_audited else msgspec.UNSET,
    )


def _signed(
    transaction: Transaction, desk: Desk, private: receipts.Private, body: receipts.CallBody
) -> receipts.SignedCall:
    gateway = desk.gateway
    tip = calls.tip(transaction, gateway.account, private.payer)
    owed = fee(body.terms.price, body.input_tokens, body.output_tokens)
    cost = Wei(0) if body.refund is not None else owed
    call = receipts.CallReceipt(
        version=receipts.RECEIPT_VERSION,
        chain_id=gateway.domain.chain_id,
        escrow=gateway.domain.contract,
        gateway=gateway.account,
        gateway_sequence=tip.gateway_sequence,
        payer_sequence=tip.payer_sequence,
        payer_total=Wei(tip.payer_total + cost),
        gateway_total=Wei(tip.gateway_total + cost),
        previous=tip.previous,
        fee=cost,
        terms_version=body.terms.version,
        payer_commitment=private.commitment(),
        body=digest_of(body),
    )
    return receipts.sign_call(gateway.domain, call, body, gateway.private_key)
