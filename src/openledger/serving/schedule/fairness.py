"""Whose turn it is, how much of the queue one tenant may take, and when a place becomes free.

Turns: the virtual token counter of "Fairness in Serving Large Language Models" (arXiv 2401.00588).
Each tenant's counter grows with what is done for him, and the smallest is served next.
"""

import math
from collections import Counter, deque

from openledger.core.errors import EngineFullError

PROMPT_COST = 1  # for each prompt token that is read; what the cache held costs nothing
ANSWER_COST = 2  # for each token made, as in section 4.1 of the source

_REMEMBERED = 10_000  # counters of tenants who are away
_GREED = 4  # places of one tenant for each free one
_FIRST_GUESS_S = 1.0  # per place, until one has become free
_WINDOW = 64  # places whose becoming free is averaged
_LONGEST_S = 60  # that anyone is told to wait


class TokenCounters:
    """What was done for whom, in virtual tokens."""

    def __init__(self) -> None:
        self._spent: dict[str, int] = {}
        self._at_work: Counter[str] = Counter()  # requests in flight
        self._floor = 0  # the smallest counter of those at work; it never falls

    def arrive(self, tenant: str) -> None:
        """One more request; who comes back has no credit for having been away."""
        if not self._at_work[tenant]:
            self._raise_floor()
            self._spent[tenant] = max(self._spent.get(tenant, 0), self._floor)
        self._at_work[tenant] += 1

    def charge(self, tenant: str, cost: int) -> None:
        """Something was done for a tenant at work."""
        self._spent[tenant] += cost

    def leave(self, tenant: str) -> None:
        """One request less. His counter is kept while it is above what a newcomer starts with."""
        self._raise_floor()
        self._at_work[tenant] -= 1
        if self._at_work[tenant]:
            return
        del self._at_work[tenant]
        away = sorted(self._spent.keys() - self._at_work.keys(), key=self._spent.__getitem__)
        surplus = len(away) - _REMEMBERED
        for place, name in enumerate(away):
            if place < surplus or self._spent[name] <= self._floor:
                del self._spent[name]

    def spent(self, tenant: str) -> int:
        """A tenant's counter; the smallest goes first."""
        return self._spent.get(tenant, self._floor)

    def in_flight(self, tenant: str) -> int:
        """His requests that wait or are answered."""
        return self._at_work[tenant]

    def _raise_floor(self) -> None:
        if self._at_work:
            self._floor = max(self._floor, min(self._spent[name] for name in self._at_work))


def may_queue(own: int, taken: int, places: int) -> bool:
    """Whether a tenant with `own` places may take one more, `taken` of all `places` being gone.

    One greedy tenant leaves a fifth of the places free; the shares of several become equal as
    their places drain.

    Source: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
    switches", IEEE/ACM Transactions on Networking 6(2), 1998.
    """
    return own < _GREED * (places - taken)


def engine_full(own: int, taken: int, places: int, retry_s: int) -> EngineFullError:
    """What a tenant is told who may not queue; counts as in `may_queue`."""
    return EngineFullError(
        f"{taken} requests are in flight, {own} of them yours, and this engine takes "
        f"{places}; try again in {retry_s} seconds",
        retry_after_s=str(retry_s),
    )


class DrainRate:
    """How long the engine works, all places together, until the next one is free."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque([0.0], _WINDOW)

    def note(self, working_s: float) -> None:
        """A place became free after so much work since the start."""
        self._ends.append(working_s)

    def retry_after_s(self, working_s: float) -> int:
        """Whole seconds until a place is likely free."""
        count = len(self._ends) - 1
        mean_s = (working_s - self._ends[0]) / count if count else _FIRST_GUESS_S
        return min(_LONGEST_S, max(1, math.ceil(mean_s)))
