from random import Random

from hypothesis import given
from hypothesis import strategies as st

from openledger.serving.schedule.fairness import DrainRate, TokenCounters, may_queue


def test_who_was_away_has_no_credit() -> None:
    counters = TokenCounters()
    counters.arrive("early")
    counters.charge("early", 100)
    counters.arrive("late")

    assert counters.spent("late") == 100


def test_who_leaves_and_returns_keeps_his_debt() -> None:
    counters = TokenCounters()
    for name in ("steady", "hopping"):
        counters.arrive(name)
    counters.charge("hopping", 50)
    counters.leave("hopping")
    counters.arrive("hopping")

    assert (counters.spent("steady"), counters.spent("hopping")) == (0, 50)


def test_a_newcomer_to_an_idle_engine_starts_where_the_last_one_ended() -> None:
    counters = TokenCounters()
    counters.arrive("first")
    counters.charge("first", 70)
    counters.leave("first")
    counters.arrive("second")

    assert counters.spent("second") == 70


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 60)), max_size=60))
def test_all_at_work_differ_by_one_charge_at_most(
    visits: list[tuple[str, int]],
) -> None:
    counters = TokenCounters()
    steady = ["x", "y", "z"]
    at_work = [*steady]
    for name in steady:
        counters.arrive(name)
    for name, cost in visits:
        if name in at_work:
            at_work.remove(name)
            counters.leave(name)
        else:
            at_work.append(name)
            counters.arrive(name)
        counters.charge(min(at_work, key=counters.spent), cost)

        spent = [counters.spent(one) for one in at_work]
        assert max(spent) - min(spent) <= 60


def test_counters_of_those_away_are_forgotten_once_they_mean_nothing() -> None:
    counters = TokenCounters()
    counters.arrive("steady")
    for number in range(100):
        counters.arrive(str(number))
        counters.charge(str(number), 1)
        counters.leave(str(number))
    counters.charge("steady", 5)
    counters.arrive("last")
    counters.leave("last")

    assert len(counters._spent) == 1


@given(st.integers(1, 300))
def test_one_greedy_tenant_leaves_a_fifth_free(places: int) -> None:
    own = 0
    while may_queue(own, own, places):
        own += 1

    assert places - own == places // 5
    assert may_queue(0, own, places) == (places >= 5)


def test_the_shares_of_greedy_tenants_become_equal() -> None:
    random, places, own = Random(0), 100, [0, 0]
    for _ in range(2_000):
        for i in (0, 1):
            while may_queue(own[i], sum(own), places):
                own[i] += 1
        own[random.choices((0, 1), own)[0]] -= 1

    assert abs(own[0] - own[1]) <= 8


def test_the_drain_is_that_of_all_places() -> None:
    drain = DrainRate()
    guess = drain.retry_after_s(0.0)
    for number in range(1, 200):
        drain.note(2.5 * number)

    assert guess == 1
    assert drain.retry_after_s(2.5 * 199) == 3
    assert drain.retry_after_s(10_000.0) == 60
