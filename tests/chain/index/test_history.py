"""Figures added up from events: what they were at which block."""

from hypothesis import given
from hypothesis import strategies as st

from openledger.chain.index.history import Course, history
from openledger.chain.index.rows import StoredEvent, pack
from openledger.core.types import Account, Digest, Wei

GATEWAY, OTHER = Account("0x" + "7" * 40), Account("0x" + "8" * 40)
ANNA, BERT = Account("0x" + "a" * 40), Account("0x" + "b" * 40)


def deposit(number: int, payer: Account, amount: int, gateway: Account = GATEWAY) -> StoredEvent:
    args = pack({"payer": payer, "gateway": gateway, "amount": amount})
    return StoredEvent(
        Digest(f"{number:064x}"), 0, number, Digest("1" * 64), OTHER, "Deposited", args
    )


def test_only_this_gateways_events_of_that_name_count() -> None:
    events = [deposit(3, ANNA, 5), deposit(3, BERT, 1), deposit(4, ANNA, 2, gateway=OTHER)]
    found = history(GATEWAY, events, events)

    assert found.payers() == (ANNA, BERT)
    assert found.deposited == Course({ANNA: ((3, Wei(5)),), BERT: ((3, Wei(1)),)})
    assert found.deposited.total() == 6
    assert found.spent.total() == found.claimed.total() == 0


def test_what_was_seen_inside_a_block_never_was() -> None:
    found = history(GATEWAY, [deposit(3, ANNA, 5), deposit(3, ANNA, 2)], []).deposited

    assert [amount for amount in range(9) if found.was(ANNA, amount)] == [0, 7]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9))))
def test_a_figure_was_what_it_was_at_some_block(made: list[tuple[int, int]]) -> None:
    events = [deposit(block, ANNA, amount) for block, amount in sorted(made)]
    course = history(GATEWAY, events, []).deposited
    at = [sum(amount for block, amount in made if block <= last) for last in range(11)]

    assert {amount for amount in range(999) if course.was(ANNA, amount)} == {0, *at}
