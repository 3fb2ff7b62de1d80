"""Which requests are in flight, and whose turn it is; the engine's lock guards it."""

import time

from openledger.core.errors import ConflictError
from openledger.serving.engine import Config
from openledger.serving.request import GenerationRequest
from openledger.serving.schedule.fairness import (
    ANSWER_COST,
    PROMPT_COST,
    DrainRate,
    TokenCounters,
    engine_full,
    may_queue,
)
from openledger.serving.vllm.job import Job


class Turns:
    """Whoever was served least goes first; so many at a time, so many more in the queue."""

    def __init__(self, config: Config) -> None:
        self._most_active = config.max_active
        self._places = config.max_active + config.max_waiting
        self._counters = TokenCounters()
        self._drain = DrainRate()
        self._worked_s = 0.0
        self._working_since_s: float | None = None  # None: nothing is being answered
        self.in_flight: dict[str, Job] = {}
        self.waiting: list[Job] = []  # in order of arrival
        self.active: list[Job] = []
        self.rejected = 0

    def check_place(self, request: GenerationRequest) -> None:
        """Refuse what there is no place for.

        Raises:
            ConflictError, EngineFullError: see `Engine.submit`.
        """
        taken = len(self.in_flight)
        if request.id in self.in_flight:
            raise ConflictError(f"request {request.id} is in flight; give each its own id")
        own = self._counters.in_flight(request.tenant)
        if not may_queue(own, taken, self._places):
            self.rejected += 1
            retry_s = self._drain.retry_after_s(self._working_s())
            raise engine_full(own, taken, self._places, retry_s)

    def enter(self, job: Job) -> None:
        """One more in the queue."""
        self.in_flight[job.request.id] = job
        self._counters.arrive(job.request.tenant)
        self.waiting.append(job)

    def admit(self) -> None:
        """Let in as many as there are places for; only the event loop calls it."""
        while self.waiting and len(self.active) < self._most_active:
            job = min(self.waiting, key=lambda one: self._counters.spent(one.request.tenant))
            self.waiting.remove(job)
            self.active.append(job)
            job.admitted_s = time.monotonic()
            self._counters.charge(job.request.tenant, PROMPT_COST * len(job.request.prompt_ids))
            if not job.turn.done():  # else it was cancelled a moment ago
                job.turn.set_result(None)
        if self.active and self._working_since_s is None:
            self._working_since_s = time.monotonic()

    def note_token(self, job: Job) -> None:
        """One more token was made."""
        self._counters.charge(job.request.tenant, ANSWER_COST)

    def leave(self, job: Job) -> None:
        """One that waited or was answered is over."""
        if job in self.active:
            self.active.remove(job)
            self._drain.note(self._working_s())
        else:
            self.waiting.remove(job)
        if not self.active:
            self._worked_s, self._working_since_s = self._working_s(), None
        del self.in_flight[job.request.id]
        self._counters.leave(job.request.tenant)

    def _working_s(self) -> float:
        """How long answers were being made until now."""
        since_s = self._working_since_s
        return self._worked_s + (0.0 if since_s is None else time.monotonic() - since_s)
