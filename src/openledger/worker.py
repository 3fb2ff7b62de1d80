"""The job loop: claims jobs, runs their handlers, tries again what failed.

Handlers are idempotent: a job runs at least once. One that takes long asks `is_stopping` and raises
`StoppedError`: its job goes on at the next start, and the attempt does not count. It also calls
`make_way` between its steps, so that short work of other kinds does not wait for its end. One
thread does all, since attribution and training share the cores and one copy of the base model.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from openledger.core.errors import OpenLedgerError, StoppedError
from openledger.storage import jobs
from openledger.storage.database import Database, Transaction
from openledger.storage.jobs import Job

log = structlog.get_logger()

Handler = Callable[[Sequence[Job]], None]

LEASE_US = 600_000_000
MOST_TOGETHER = 8
_IDLE_S = 0.2


class Worker:
    """Runs jobs of the kinds it has handlers for.

    Args:
        database: where jobs are.
        handlers: by kind of job.
        together: kinds whose handler takes several jobs at once. If it fails they all are tried
            again, each alone: one bad job does not keep the others from being done.
        chores: done between jobs, such as pumping the outbox.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        handlers: Mapping[str, Handler],
        chores: Callable[[], None],
        clock: Callable[[], int],
        together: Collection[str] = (),
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._together = frozenset(together)
        self._running: set[str] = set()  # kinds
        self._chores = chores
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def run_once(self) -> bool:
        """Run what is due next, one job or several; whether it came to an end, good or bad."""
        taken = self._claim()
        if not taken:
            return False
        kind, keys = taken[0].kind, [job.key for job in taken]
        self._running.add(kind)
        try:
            self._handlers[kind](taken)
        except StoppedError:
            log.info("job stopped", kind=kind, keys=keys)
            self._end(taken, jobs.give_back)
            return False
        except OpenLedgerError as error:
            log.warning("job failed", kind=kind, keys=keys, code=error.code, why=str(error))
            self._fail(taken, error)
        except Exception as error:
            log.exception("job broke", kind=kind, keys=keys)
            self._fail(taken, error)
        else:
            self._end(taken, jobs.complete)
        finally:
            self._running.discard(kind)
        return True

    def make_way(self) -> None:
        """Run what is due of other kinds than those under way, once."""
        self._attempt()

    def drain(self) -> int:
        """Run every job that is due now; in how many turns."""
        count = 0
        while self.run_once():
            count += 1
        return count

    def start(self) -> None:
        """Run in a thread until `stop`."""
        self._thread = threading.Thread(target=self._loop, name="openledger-worker", daemon=True)
        self._thread.start()

    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the thread once the job at hand is done, or has made way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _claim(self) -> list[Job]:
        kinds = [kind for kind in self._handlers if kind not in self._running]
        with self._database.transaction() as transaction:
            job = jobs.claim(transaction, kinds, self._clock(), LEASE_US)
            if job is None:
                return []
            # What failed before runs alone from then on.
            is_one_of_many = job.kind in self._together and job.attempt == 1
            more = MOST_TOGETHER - 1 if is_one_of_many else 0
            return [job, *jobs.claim_fresh(transaction, job.kind, self._clock(), LEASE_US, more)]

    def _end(self, taken: Sequence[Job], end: Callable[[Transaction, Job, int], None]) -> None:
        with self._database.transaction() as transaction:
            for job in taken:
                end(transaction, job, self._clock())

    def _fail(self, taken: Sequence[Job], error: Exception) -> None:
        with self._database.transaction() as transaction:
            for job in taken:
                jobs.fail(transaction, job, str(error) or type(error).__name__, self._clock())

    def _loop(self) -> None:
        while not self._stop.is_set():
            if not self._turn():
                self._stop.wait(_IDLE_S)

    def _turn(self) -> bool:
        """Chores and one job; the loop outlives a full disk, a dead database and bugs alike."""
        # Apart: while the chain is away its chores fail, and training needs no chain.
        try:
            self._chores()
        except OpenLedgerError as error:
            log.warning("chores failed", code=error.code, why=str(error))
        except Exception:
            log.exception("chores broke")
        return self._attempt()

    def _attempt(self) -> bool:
        """Run one turn; whatever the queue itself stumbles on ends neither the loop nor a run."""
        try:
            return self.run_once()
        except Exception:
            log.exception("worker stumbled")
            return False
