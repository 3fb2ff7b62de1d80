"""A worker that is killed at one point of its work: `python -m tests.flows.money.dying_worker`.

Its arguments are the home and the point: a number N, in the N-th answer, or `completing`, when all
statements are stored and the jobs not yet done.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from openledger.attribution.attribute import AnswerAttribution
from openledger.core.ids import parse_receipt_id
from openledger.storage.jobs import ATTRIBUTE_JOB, Job
from openledger.wiring.platform import now_us, open_platform
from openledger.worker import Worker
from tests import market as fair

COMPLETING = "completing"


class DyingScorer(fair.Scorer):
    """Ends the process, for good, in its n-th answer."""

    dies_at: int | None = None

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> tuple[AnswerAttribution, ...]:
        found = super().attribute(prompt_ids, answer_ids)
        if self.asked == self.dies_at:
            die()
        return found


def die() -> None:
    """Nothing may catch it."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(home: str, point: str) -> None:
    """Run whatever is due, and die of it."""
    with open_platform(fair.settings(Path(home))) as platform:
        scorer = DyingScorer(fair.contributors(platform))
        scorer.dies_at = None if point == COMPLETING else int(point)
        attribute = fair.attribution(platform, scorer)

        def handle(taken: Sequence[Job]) -> None:
            attribute.run([parse_receipt_id(job.key) for job in taken])
            die()

        handlers = {ATTRIBUTE_JOB: handle}
        Worker(platform.database, handlers, lambda: None, now_us, together=handlers).drain()


if __name__ == "__main__":
    main(*sys.argv[1:])
