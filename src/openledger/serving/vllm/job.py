"""One request on its way through a vLLM server, and the books of all that ended."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from openledger.core.errors import EngineFaultError, OpenLedgerError, UnavailableError
from openledger.core.types import Digest
from openledger.serving.request import Finish, GenerationRequest, MixMember, Usage
from openledger.serving.stream import TokenStream


@dataclass
class Job:
    """A request in flight; its times are those of the monotonic clock."""

    request: GenerationRequest
    stream: TokenStream
    max_tokens: int  # as many as the context leaves room for
    turn: "asyncio.Future[None]"  # done when there is a place for it
    task: "asyncio.Task[Finish] | None" = None
    if_cancelled: Finish = Finish.CANCELLED
    arrived_s: float = field(default_factory=time.monotonic)
    admitted_s: float | None = None
    asked_s: float | None = None
    first_s: float | None = None  # when its first token came
    made: int = 0
    cached: int = 0
    is_paused: bool = False  # its reader is slow

    @property
    def named(self) -> list[Digest]:
        """Every adapter of its mix."""
        return [member.adapter for member in self.request.mix]

    @property
    def members(self) -> tuple[MixMember, ...]:
        """Those of its mix that do anything."""
        return tuple(member for member in self.request.mix if member.weight)

    def usage(self, finish: Finish) -> Usage:
        """What it took until now."""
        now_s = time.monotonic()
        admitted_s = now_s if self.admitted_s is None else self.admitted_s
        asked_s = now_s if self.asked_s is None else self.asked_s
        first_s = now_s if self.first_s is None else self.first_s
        return Usage(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self.made,
            steps=self.made,
            queue_s=admitted_s - self.arrived_s,
            load_s=asked_s - admitted_s,
            prefill_s=first_s - asked_s,
            decode_s=now_s - first_s,
            finish=finish,
            cached_tokens=self.cached,
        )


@dataclass
class Books:
    """What was done since the start."""

    finished: Counter[Finish] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    def note(self, usage: Usage) -> None:
        """One request ended."""
        self.finished[usage.finish] += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.completion_tokens += usage.completion_tokens
        self.prefill_s += usage.prefill_s
        self.decode_s += usage.decode_s


@dataclass(frozen=True)
class Ending:
    """Why a job is over, and what its reader is told of it."""

    finish: Finish
    error: OpenLedgerError | None = None


def ending_of(job: Job, task: "asyncio.Task[Finish]") -> Ending:
    """How a job's task, which is done, ended."""
    if task.cancelled():
        if job.if_cancelled is Finish.SHUTDOWN:
            why = "the engine was stopped before the answer ended; try again"
            return Ending(Finish.SHUTDOWN, UnavailableError(why))
        return Ending(job.if_cancelled)
    cause = task.exception()
    if cause is None:
        return Ending(task.result())
    if isinstance(cause, OpenLedgerError):
        return Ending(Finish.FAULT, cause)
    fault = EngineFaultError(
        f"request {job.request.id} broke inside the engine ({type(cause).__name__}); "
        "it costs nothing, try again"
    )
    fault.__cause__ = cause
    return Ending(Finish.FAULT, fault)
