"""One paid call: hold, answer, fee, receipt; no chain call on this path.

The receipt's id is known before the first token. The receipt is stored, in the transaction that
charges the hold and queues the attribution, before the answer's last piece is handed out. What was
handed to the caller is what is paid for; a fault on our side costs nothing.
"""

import threading
from collections.abc import Iterator

from openledger.core.encoding import decode
from openledger.core.errors import UnavailableError
from openledger.core.types import PARTS_PER_BILLION
from openledger.flows.money.infer.charge import Ending, charge
from openledger.flows.money.infer.prepare import prepare
from openledger.flows.money.infer.request import (
    CallRequest,
    CallResult,
    Desk,
    Prepared,
    StoredAnswer,
)
from openledger.lm.stream import Detokenizer, StopScanner
from openledger.serving.engine import Stream
from openledger.serving.request import Finish, GenerationRequest, MixMember
from openledger.settlement.receipt import SignedCall
from openledger.storage.database import Database
from openledger.storage.records.money import balances, calls, idempotency

CANCELLED = Finish.CANCELLED.value
_FOR_EVER_US = 10**15


def start(desk: Desk, request: CallRequest) -> "Inference | Replay":
    """Reserve the money and queue the answer; an idempotency key answered before is replayed.

    Raises:
        NotFoundError: no such model, or member of a mix.
        InvalidInputError: the request is wrong, or its prompt too long, or no such mix can be.
        InsufficientBalanceError: balance, voucher or a cap cannot cover it.
        NotAllowedError: a release breaks the payer's conditions, is deprecated, or not audited.
        ConflictError: the idempotency key was used for another request.
        UnavailableError: the engine is full, or the key's first request still runs; nothing is
            held.
    """
    prepared = prepare(desk, request)
    if isinstance(prepared, StoredAnswer):
        return Replay(desk.database, prepared)
    generation = GenerationRequest(
        id=prepared.receipt,
        tenant=request.payer,
        prompt_ids=tuple(prepared.prompt_ids),
        mix=tuple(
            MixMember(member.adapter, member.weight_ppb / PARTS_PER_BILLION)
            for member in prepared.choice.mix
        ),
        sampling=prepared.sampling,
        max_tokens=prepared.hold.max_tokens,
        stop_ids=frozenset([desk.tokenizer.end]),
        deadline_s=desk.config.deadline_s,
    )
    try:
        stream = desk.engine.submit(generation)
    except Exception:  # nothing was handed out: money and key are free again
        with desk.database.transaction() as transaction:
            balances.release_hold(transaction, prepared.receipt, desk.clock())
            key = request.reservation(desk.sealer)
            if key is not None:
                idempotency.give_up(transaction, key)
        raise
    return Inference(desk, prepared, stream)


class Inference:
    """An answer on its way, for one reader; `cancel` may come from another thread."""

    def __init__(self, desk: Desk, prepared: Prepared, stream: Stream) -> None:
        self._desk = desk
        self._prepared = prepared
        self._stream = stream
        self._made: list[int] = []  # all tokens read from the engine
        self._made_by: list[int] = []  # how many they were when each piece was given
        self._handed: list[int] = []  # those that a caller who hung up pays for
        self._text: list[str] = []
        self._ending: Ending | None = None  # the first one decides
        self._result: CallResult | None = None
        self._closing = threading.Lock()
        self.receipt_id = prepared.receipt
        self.terms = prepared.choice.terms
        self.base = prepared.choice.base
        self.mix = prepared.choice.mix

    def __iter__(self) -> Iterator[str]:
        """Pieces of text as they become certain.

        Raises:
            EngineFaultError: the engine broke; the call costs nothing.
        """
        detokenizer = Detokenizer(self._desk.tokenizer)
        scanner = StopScanner(self._prepared.request.decoding.stop)
        try:
            for token in self._stream:
                self._made.append(token.id)
                piece = scanner.push(detokenizer.push(token.id))
                if piece:
                    self._text.append(piece)
                    self._made_by.append(len(self._made))
                    yield piece
                if scanner.is_stopped:
                    self._stream.cancel()
                    break
            rest = scanner.push(detokenizer.finish()) + scanner.finish()
        except Exception:  # whatever broke, it was ours: the caller pays nothing
            self._close(_fault("engine_fault"))
            raise
        usage = self._stream.usage()
        finish = "stop" if scanner.is_stopped else usage.finish.value
        if finish == CANCELLED:
            self._close(self._cut())
            return
        # Stored before it is promised: the last piece leaves after the receipt is safe.
        self._text.append(rest)
        text = "".join(self._text)
        self._close(Ending(self._made, text, finish, cached_tokens=usage.cached_tokens))
        if rest:
            yield rest

    def cancel(self, pieces: int = 0) -> CallResult:
        """Stop; the first `pieces` reached the caller and are paid for. Harmless when it has ended.

        A call whose receipt could not be stored costs nothing: this tries to say so once more.
        """
        # Before the stream ends: another thread, waiting for the next piece, may close the call.
        self._handed = self._made[: self._made_by[pieces - 1]] if pieces else []
        self._stream.cancel()
        return self._close(self._cut())

    def result(self) -> CallResult:
        """How it ended.

        Raises:
            UnavailableError: it has not ended yet.
        """
        if self._result is None:
            raise UnavailableError("the answer has not ended yet; read it to its end")
        return self._result

    def _cut(self) -> Ending:
        # Nothing reaches a caller who does not stream before the whole answer is there: he pays
        # nothing, and the same request may come again.
        if not self._prepared.request.is_streamed:
            return Ending([], "", CANCELLED, refund="not_delivered")
        return Ending(self._handed, self._desk.tokenizer.decode(self._handed), CANCELLED)

    def _close(self, ending: Ending) -> CallResult:
        with self._closing:
            if self._result is None:
                self._ending = self._ending or ending
                try:
                    self._result = charge(self._desk, self._prepared, self._ending)
                except Exception:
                    # The disk is full, say: the caller gets an error, so he must not be charged
                    # when it has room again. Until then the hold waits, and expires.
                    self._ending = _fault("gateway_fault")
                    raise
                self._count(self._result)
            return self._result

    def _count(self, result: CallResult) -> None:
        if result.refund is None:
            self._desk.meter.count(self.mix, result.input_tokens, result.output_tokens)


def _fault(reason: str) -> Ending:
    return Ending([], "", "error", refund=reason)


class Replay:
    """The answer of an earlier request with the same idempotency key; it costs nothing more."""

    def __init__(self, database: Database, stored: StoredAnswer) -> None:
        self._result = stored.result
        self.receipt_id = stored.result.receipt_id
        with database.read() as transaction:
            call = calls.get(transaction, self.receipt_id)
        # Nothing that is in force now: the fee was split by what the receipt names.
        body = decode(call.record, SignedCall).body
        self.terms, self.base, self.mix = body.terms, body.base, body.mix

    def __iter__(self) -> Iterator[str]:
        """The whole text, in one piece."""
        if self._result.text:
            yield self._result.text

    def cancel(self, pieces: int = 0) -> CallResult:  # noqa: ARG002 - as of an `Inference`
        """Nothing to stop."""
        return self._result

    def result(self) -> CallResult:
        """How the first request ended."""
        return self._result


def refund_orphans(database: Database, now: int) -> int:
    """Give back what calls of a dead process held, and free their idempotency keys; how many.

    One process owns a home, so at its start no call can be under way.
    """
    with database.transaction() as transaction:
        idempotency.give_up_all(transaction)
        return len(balances.release_expired(transaction, now + _FOR_EVER_US))
