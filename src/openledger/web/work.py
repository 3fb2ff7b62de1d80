"""The worker of an opened home: the server runs it in a thread, commands until nothing is due."""

from openledger.storage import jobs
from openledger.storage.jobs import ATTRIBUTE_JOB
from openledger.wiring.platform import Platform, now_us
from openledger.worker import Worker


def worker_of(platform: Platform) -> Worker:
    """A worker over all of a home's jobs; one at a time.

    One process owns a home, so jobs that seem to run belong to a process that died: they are due
    again at once instead of after their lease. A run in training makes way when the worker is asked
    to stop.
    """
    models = platform.models
    with platform.database.transaction() as transaction:
        jobs.reclaim(transaction, list(models.handlers), now_us())
    worker = Worker(
        platform.database, models.handlers, models.chores, now_us, together=(ATTRIBUTE_JOB,)
    )
    models.is_stopping, models.make_way = worker.is_stopping, worker.make_way
    return worker
