"""Paid calls for the web, over the flow that makes them."""

from collections.abc import Iterator
from hashlib import sha256

import structlog

from openledger.core.errors import UnavailableError
from openledger.core.types import PARTS_PER_BILLION, Wei
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.request import CallRequest, Decoding, Desk
from openledger.lm.tokenizer import ChatMessage
from openledger.serving.request import SEED_BYTES, Finish, Sampling
from openledger.settlement.parts import role_amounts
from openledger.settlement.price import MixMember, SplitPolicy, model_name
from openledger.storage.database import Transaction
from openledger.storage.records.money import calls, epochs
from openledger.web.inference import InferenceRequest, InferenceResult, RolePart

log = structlog.get_logger()

_FINGERPRINT_LENGTH = 12


class Till:
    """Starts paid calls; see `inference.Inferences`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def start(self, request: InferenceRequest) -> "OpenCall":
        _check_ranges(request)
        call = CallRequest(
            payer=request.payer.account,
            model=request.model,  # as sent: a repeat is one whatever was published since
            prompt=_prompt(request),
            api_key=request.payer.key,
            key_daily_cap=request.payer.key_daily_cap,
            key_total_cap=request.payer.key_total_cap,
            max_tokens=request.max_tokens,
            max_cost=request.max_cost,
            decoding=_decoding(request),
            is_audited=request.is_audited,
            is_streamed=request.is_streamed,
            idempotency_key=request.idempotency_key,
            nonce=None if request.seed is None else str(request.seed),
        )
        return OpenCall(answer.start(self._desk, call), self._desk)


class OpenCall:
    """One call in progress; see `inference.Inference`."""

    def __init__(self, call: answer.Inference | answer.Replay, desk: Desk) -> None:
        adapters = "+".join(_adapter(member) for member in call.mix)
        parts = f"{call.base}|{adapters}|{desk.engine.caps.determinism}"
        self._call = call
        self._database = desk.database
        self.receipt_id = call.receipt_id
        self.model = model_name(call.mix)
        self.fingerprint = f"fp_{sha256(parts.encode()).hexdigest()[:_FINGERPRINT_LENGTH]}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._call)

    def result(self) -> InferenceResult:
        ended = self._call.result()
        is_attributed, settled = self._progress()
        return InferenceResult(
            text=ended.text,
            finish_reason="stop" if ended.finish == Finish.STOP else "length",
            prompt_tokens=ended.input_tokens,
            completion_tokens=ended.output_tokens,
            fee=ended.fee,
            parts=_parts(ended.fee, self._call.terms.policy),
            is_attributed=is_attributed,
            settled=settled,
            cached_tokens=ended.cached_tokens,
        )

    def cancel(self, pieces: int) -> None:
        self._call.cancel(pieces)

    def _progress(self) -> tuple[bool, int | None]:
        """Whether it is attributed, and the number of its settled epoch."""
        try:
            with self._database.read() as transaction:
                is_attributed = calls.statement(transaction, self.receipt_id) is not None
                return is_attributed, _settled(transaction, calls.get(transaction, self.receipt_id))
        except UnavailableError as error:
            # The call is charged: its answer must not be lost for want of this.
            log.warning("progress not read", receipt=self.receipt_id, why=str(error))
            return False, None


def _adapter(member: MixMember) -> str:
    if member.weight_ppb == PARTS_PER_BILLION:
        return member.adapter
    return f"{member.adapter}*{member.weight_ppb}"


def _settled(transaction: Transaction, call: calls.Call) -> int | None:
    epoch = epochs.holding(transaction, call.gateway, call.gateway_sequence)
    if epoch is None or epoch.state is epochs.EpochState.CLOSED:  # nothing is drawn yet
        return None
    return epoch.number


def _parts(fee: Wei, policy: SplitPolicy) -> tuple[RolePart, ...]:
    amounts = role_amounts(fee, policy)
    return tuple(
        RolePart(role, amount) for role, amount in amounts.items() if getattr(policy, role)
    )


def _check_ranges(request: InferenceRequest) -> None:
    """Refuse what no sampler takes before any money is held."""
    Sampling(
        seed=bytes(SEED_BYTES),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )


def _decoding(request: InferenceRequest) -> Decoding:
    return Decoding(
        temperature_milli=_milli(request.temperature),
        top_p_milli=max(1, _milli(request.top_p)),  # 0 would allow no token at all
        top_k=request.top_k,
        repetition_penalty_milli=max(1, _milli(request.repetition_penalty)),
        presence_penalty_milli=_milli(request.presence_penalty),
        frequency_penalty_milli=_milli(request.frequency_penalty),
        stop=request.stop,
    )


def _milli(value: float) -> int:
    return round(value * 1_000)


def _prompt(request: InferenceRequest) -> str | tuple[ChatMessage, ...]:
    if request.messages is None:
        return request.prompt or ""
    return tuple(ChatMessage(one.role, one.content) for one in request.messages)
