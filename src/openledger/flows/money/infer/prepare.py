"""Before the first token: prompt, terms, money and seed of a call."""

from hashlib import sha256

import msgspec

from openledger.core.encoding import decode
from openledger.core.errors import InsufficientBalanceError
from openledger.core.ids import RANDOM_BYTES, receipt_id
from openledger.core.types import Account, Wei
from openledger.flows.money.infer.choose import choose
from openledger.flows.money.infer.request import (
    DEFAULT_MAX_TOKENS,
    CallRequest,
    Decoding,
    Desk,
    Prepared,
    StoredAnswer,
)
from openledger.lm.tokenizer import ChatMessage, Tokenizer
from openledger.serving.request import Sampling
from openledger.settlement.hold import Ask, Purse, hold
from openledger.settlement.voucher import Channel
from openledger.storage.database import Transaction
from openledger.storage.records.money import balances, idempotency

_DAY_US = 86_400_000_000
_SECOND_US = 1_000_000


def prepare(desk: Desk, request: CallRequest) -> Prepared | StoredAnswer:
    """Reserve the most that the call may cost, and fix all that its answer depends on.

    A request whose idempotency key was answered before gets that answer, and nothing is held.
    """
    prompt_ids = _tokens(desk.tokenizer, request.prompt)
    caps = desk.engine.caps
    room = caps.context - len(prompt_ids)
    wanted = request.max_tokens
    most = max(1, min(DEFAULT_MAX_TOKENS, room)) if wanted is None else wanted
    now = desk.clock()
    receipt = receipt_id(desk.random(RANDOM_BYTES))
    nonce = request.nonce if request.nonce is not None else desk.random(32).hex()
    with desk.database.transaction() as transaction:
        answered = _answered(transaction, desk, request, now)
        if answered is not None:
            return answered
        choice = choose(transaction, request.model, caps.max_mix, is_audited=request.is_audited)
        channel = _channel(transaction, desk.gateway.account, request.payer)
        purse = _purse(transaction, desk.gateway.account, request, channel, now)
        ask = Ask(len(prompt_ids), most, request.max_cost)
        made = hold(ask, choice.terms, channel, purse, now // _SECOND_US)
        place = balances.next_place(transaction, desk.gateway.account, request.payer)
        # Checked before the money is held: a wrong temperature must not leave a hold behind.
        basis = f"{nonce}|{place}|{choice.seed_name}"
        sampling = _sampling(request.decoding, sha256(basis.encode()).digest())
        new = balances.NewHold(
            receipt=receipt,
            gateway=desk.gateway.account,
            payer=request.payer,
            api_key=request.api_key,
            release=choice.releases[0].id,
            amount=made.amount,
            expires_at=now + desk.config.hold_s * _SECOND_US,
        )
        balances.open_hold(transaction, new, now)
    return Prepared(
        request=request,
        receipt=receipt,
        choice=choice,
        prompt_ids=prompt_ids,
        hold=made,
        nonce=basis,
        sampling=sampling,
        started_us=now,
    )


def _answered(
    transaction: Transaction, desk: Desk, request: CallRequest, now: int
) -> StoredAnswer | None:
    key = request.reservation(desk.sealer)
    if key is None:
        return None
    stored = idempotency.reserve(transaction, key, now, desk.config.hold_s * _SECOND_US)
    if stored is None:
        return None
    return decode(desk.sealer.unseal(f"answer/{key.scope}/{key.key}", stored), StoredAnswer)


def _tokens(tokenizer: Tokenizer, prompt: str | tuple[ChatMessage, ...]) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer.encode_start(prompt)
    # Adapters are trained on documents: a chat is the opening of one, not the base's template.
    return tokenizer.encode_opening(prompt)


def _sampling(decoding: Decoding, seed: bytes) -> Sampling:
    return Sampling(
        seed=seed,
        temperature=decoding.temperature_milli / 1_000,
        top_p=decoding.top_p_milli / 1_000,
        top_k=decoding.top_k,
        repetition_penalty=decoding.repetition_penalty_milli / 1_000,
        presence_penalty=decoding.presence_penalty_milli / 1_000,
        frequency_penalty=decoding.frequency_penalty_milli / 1_000,
    )


def _channel(transaction: Transaction, gateway: Account, payer: Account) -> Channel:
    voucher = balances.position(transaction, gateway, payer).voucher
    if voucher is None:
        raise InsufficientBalanceError(
            "this account has signed no voucher; deposit with `openledger wallet`"
        )
    return msgspec.convert(msgspec.json.decode(voucher.channel), Channel, strict=False)


def _purse(
    transaction: Transaction, gateway: Account, request: CallRequest, channel: Channel, now: int
) -> Purse:
    has = balances.position(transaction, gateway, request.payer)
    today = now - now % _DAY_US
    day = channel.daily_cap - balances.payer_spent(transaction, gateway, request.payer, today)
    voucher = has.voucher_left
    if request.api_key is not None:
        spent_today = balances.key_spent(transaction, gateway, request.api_key, today)
        day = min(day, _left(request.key_daily_cap, spent_today, day))
        spent = balances.key_spent(transaction, gateway, request.api_key)
        voucher = min(voucher, _left(request.key_total_cap, spent, voucher))
    return Purse(Wei(has.free), Wei(voucher), Wei(day))


def _left(cap: Wei | None, spent: Wei, otherwise: int) -> int:
    return otherwise if cap is None else cap - spent
