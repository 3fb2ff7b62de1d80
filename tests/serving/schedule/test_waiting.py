from collections.abc import Iterable

import pytest

from openledger.serving.schedule.fairness import TokenCounters
from openledger.serving.schedule.sequence import AnswerSequence, Sequence
from openledger.serving.schedule.waiting import Queue
from openledger.serving.stream import TokenStream
from tests.fakes import HashAdapter
from tests.serving.conformance import ask

LIMIT_S = 5.0


class Line:
    """A queue with the counters of three tenants: anne 30, bob 20, carl 10."""

    def __init__(self) -> None:
        self.counters = TokenCounters()
        self.queue: Queue[HashAdapter] = Queue(self.counters, LIMIT_S)
        spent = {"anne": 30, "bob": 20, "carl": 10}
        for tenant in spent:
            self.counters.arrive(tenant)
        for tenant, cost in spent.items():
            self.counters.charge(tenant, cost)

    def add(self, tenant: str) -> Sequence[HashAdapter]:
        request = ask(tenant=tenant)
        stream = TokenStream(request.id, 4, 5.0, lambda _: None)
        sequence: Sequence[HashAdapter] = AnswerSequence(request, stream, 0.0, 64)
        self.queue.add(sequence)
        return sequence


@pytest.fixture
def line() -> Line:
    return Line()


def tenants(sequences: Iterable[Sequence[HashAdapter]]) -> list[str]:
    return [one.request.tenant for one in sequences]


def test_the_smallest_counter_goes_first_and_then_the_eldest(line: Line) -> None:
    added = [line.add(tenant) for tenant in ("anne", "bob", "carl", "bob", "carl")]
    turns = line.queue.in_turn(0.0)

    assert tenants(turns) == ["carl", "carl", "bob", "bob", "anne"]
    assert turns[0] is added[2]


def test_one_passed_by_for_too_long_goes_before_everybody(line: Line) -> None:
    overdue = line.add("anne")
    line.add("carl")

    assert line.queue.pass_by(overdue, 100.0)
    assert line.queue.pass_by(overdue, 100.0 + LIMIT_S - 1)
    assert tenants(line.queue.in_turn(100.0 + LIMIT_S - 1)) == ["carl", "anne"]
    assert not line.queue.pass_by(overdue, 100.0 + LIMIT_S)
    assert tenants(line.queue.in_turn(100.0 + LIMIT_S)) == ["anne", "carl"]


def test_one_that_is_dropped_waits_no_longer(line: Line) -> None:
    first, second = line.add("anne"), line.add("bob")
    line.queue.drop(first)
    line.queue.drop(first)

    assert list(line.queue) == [second]
    assert len(line.queue) == 1
