"""The job loop: claims jobs, runs their handlers, tries again what failed.

Handlers are idempotent: a job runs at least once. One that takes long asks `is_stopping` and raises
`StoppedError`: its job goes on at the next start, and the attempt does not count. One loop runs at
a time in a home, since attribution and training share one copy of the base model.
"""

import threading
from collections.abc import Callable, Mapping

import structlog

from openledger.core.errors import OpenLedgerError, StoppedError
from openledger.storage import jobs
from openledger.storage.database import Database
from openledger.storage.jobs import Job

log = structlog.get_logger()

Handler = Callable[[Job], None]

LEASE_US = 600_000_000
_IDLE_S = 0.2


class Worker:
    """Runs jobs of the kinds it has handlers for.

    Args:
        database: where jobs are.
        handlers: by kind of job.
        chores: done between jobs, such as pumping the outbox.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        handlers: Mapping[str, Handler],
        chores: Callable[[], None],
        clock: Callable[[], int],
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._chores = chores
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def run_once(self) -> bool:
        """Run one job that is due; whether it came to an end, good or bad."""
        with self._database.transaction() as transaction:
            job = jobs.claim(transaction, list(self._handlers), self._clock(), LEASE_US)
        if job is None:
            return False
        try:
            self._handlers[job.kind](job)
        except StoppedError:
            log.info("job stopped", kind=job.kind, key=job.key)
            with self._database.transaction() as transaction:
                jobs.give_back(transaction, job, self._clock())
            return False
        except OpenLedgerError as error:
            log.warning("job failed", kind=job.kind, key=job.key, code=error.code, why=str(error))
            self._fail(job, error)
        except Exception as error:
            log.exception("job broke", kind=job.kind, key=job.key)
            self._fail(job, error)
        else:
            with self._database.transaction() as transaction:
                jobs.complete(transaction, job, self._clock())
        return True

    def drain(self) -> int:
        """Run every job that is due now; how many there were."""
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

    def _fail(self, job: Job, error: Exception) -> None:
        with self._database.transaction() as transaction:
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
        try:
            return self.run_once()
        except Exception:
            log.exception("worker stumbled")
            return False
