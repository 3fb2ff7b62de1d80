"""What a flow may rely on when it queues, waits, retries."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from openledger.chain.contracts import Write
from openledger.chain.outbox.rows import State, op_id
from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from openledger.core.types import Account
from tests.chain.fake_chain import GWEI, Killed, RefusalError
from tests.chain.outbox.world import TARGET, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


def test_a_write_is_final_only_when_its_block_is(world: World) -> None:
    op = world.submit(b"good1")
    world.outbox.pump()
    world.chain.mine()
    world.outbox.pump()
    [mined] = world.outbox.outcomes([op])
    world.chain.mine(12)
    world.outbox.pump()
    [final] = world.outbox.outcomes([op])

    assert (mined.state, mined.block, mined.has_ended) == (State.MINED, 1, False)
    assert (final.state, final.block, final.has_ended) == (State.FINAL, 1, True)
    assert final.tx_hash == world.chain.blocks[1].entries[0].hash


def test_the_same_operation_is_queued_once(world: World) -> None:
    first, second = world.submit(b"good1"), world.submit(b"good1")
    world.settle()

    assert first == second
    assert world.chain.applied() == [b"good1"]


def test_an_operation_with_another_content_is_refused(world: World) -> None:
    op = world.submit(b"good1")

    with (
        pytest.raises(ConflictError, match="another calldata"),
        world.database.transaction() as transaction,
    ):
        world.outbox.submit(transaction, op, Write("Fake.act", TARGET, b"good2"))


def test_a_rolled_back_change_leaves_no_write(world: World) -> None:
    op = op_id("x")

    def change() -> None:
        with world.database.transaction() as transaction:
            world.outbox.submit(transaction, op, Write("Fake.act", TARGET, b"good"))
            raise InvalidInputError("the business change failed")

    with pytest.raises(InvalidInputError):
        change()
    with pytest.raises(NotFoundError):
        world.outbox.outcomes([op])
    with world.database.read() as transaction:
        assert not world.outbox.is_known(transaction, op)


def test_a_refused_write_does_not_block_those_behind(world: World) -> None:
    bad, good = world.submit(b"bad1"), world.submit(b"good1")
    world.settle()
    outcomes = world.outbox.outcomes([bad, good])

    assert [one.state for one in outcomes] == [State.FAILED, State.FINAL]
    assert "it is bad" in str(outcomes[0].reason)
    assert outcomes[0].tx_hash is None


def test_a_write_that_fails_in_its_block_has_the_contracts_reason(world: World) -> None:
    op = world.submit(b"trap1")
    behind = world.submit(b"good1")
    world.settle()
    outcomes = world.outbox.outcomes([op, behind])

    assert outcomes[0].state is State.FAILED
    assert "it was a trap" in str(outcomes[0].reason)
    assert outcomes[1].state is State.FINAL


def test_a_write_that_depends_on_an_earlier_one_waits_for_it(world: World) -> None:
    world.submit(b"good1")
    world.submit(b"aftergood1")
    report = world.outbox.pump()
    world.settle()

    assert report.signed == 1
    assert world.chain.applied() == [b"good1", b"aftergood1"]


def test_a_failed_write_can_be_tried_again(world: World) -> None:
    op = world.submit(b"aftergood1")
    world.settle()
    world.submit(b"good1")
    world.settle()
    with world.database.transaction() as transaction:
        world.outbox.retry(transaction, op)
    world.settle()

    assert world.chain.applied() == [b"good1", b"aftergood1"]
    with pytest.raises(ConflictError, match="final"), world.database.transaction() as transaction:
        world.outbox.retry(transaction, op)


def test_while_the_chain_is_down_writes_wait(world: World) -> None:
    world.chain.is_down = True
    op = world.submit(b"good1")

    with pytest.raises(ChainUnavailableError, match=r"1 writes wait .* the fake chain is down"):
        world.outbox.wait([op], 5)
    world.chain.is_down = False
    world.settle()
    assert world.chain.applied() == [b"good1"]


def test_confirm_raises_with_the_reason_of_a_failure(world: World) -> None:
    op = world.submit(b"bad1")

    with pytest.raises(ChainRejectedError, match=r"Fake.act was refused: .*it is bad") as caught:
        world.outbox.confirm([op], 5)
    assert caught.value.details["op_id"] == op


def test_waiting_names_an_operation_that_was_never_queued(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.outbox.wait([op_id("nobody")], 1)
    with pytest.raises(InvalidInputError):
        op_id()


def test_a_lost_answer_is_no_second_transaction(world: World) -> None:
    world.submit(b"good1")
    world.chain.send_fault = "unheard"
    world.outbox.pump()
    world.settle()

    assert len({sent.hash for sent in world.chain.seen}) == 1
    assert world.chain.applied() == [b"good1"]


def test_what_was_stored_before_a_crash_is_what_is_sent(world: World) -> None:
    world.submit(b"good1")
    world.chain.kill_in, world.chain.kill_after = 6, False
    with pytest.raises(Killed):
        world.outbox.pump()
    assert world.chain.requests[-1] == "eth_sendRawTransaction"
    world.outbox = world.open()
    report = world.outbox.pump()  # its lease is still the dead process's
    world.pass_time(61)
    world.settle()

    assert "holds the lease" in str(report.problem)
    assert world.chain.applied() == [b"good1"]


def test_a_transaction_that_nobody_mines_offers_more_on_the_same_nonce(world: World) -> None:
    world.submit(b"good1")
    world.outbox.pump()
    world.chain.base_fee = 50 * GWEI
    world.pass_time(95)
    world.outbox.pump()
    world.chain.mine(13)
    world.settle()

    assert {sent.nonce for sent in world.chain.seen} == {0}
    assert len({sent.hash for sent in world.chain.seen}) == 2
    assert world.chain.applied() == [b"good1"]


def test_the_first_offer_may_still_be_the_one_that_is_mined(world: World) -> None:
    op = world.submit(b"good1")
    world.outbox.pump()
    [first] = world.chain.pool
    world.pass_time(95)
    world.outbox.pump()
    world.chain.pool = [first]
    world.chain.mine(13)
    world.settle()

    assert world.outbox.outcomes([op])[0].tx_hash == first.hash
    assert len(world.chain.seen) > 1


def test_above_the_cap_the_same_bytes_are_sent_again(world: World) -> None:
    world.submit(b"good1")
    world.outbox.pump()
    for _ in range(60):
        world.pass_time(95)
        world.outbox.pump()

    assert max(sent.max_fee for sent in world.chain.seen) <= 100 * GWEI
    world.chain.mine(13)
    world.settle()


def test_when_gas_is_too_dear_nothing_is_signed(world: World) -> None:
    world.chain.base_fee = 101 * GWEI
    world.submit(b"good1")
    report = world.outbox.pump()

    assert "above the cap" in str(report.problem)
    assert not world.chain.seen


def test_a_dropped_transaction_is_sent_again(world: World) -> None:
    world.submit(b"good1")
    world.outbox.pump()
    world.chain.pool = []
    world.pass_time(31)
    world.settle()

    assert len({sent.hash for sent in world.chain.seen}) == 1
    assert world.chain.applied() == [b"good1"]


def test_a_nonce_that_was_used_elsewhere_fails_the_row_and_says_so(world: World) -> None:
    op = world.submit(b"good1")
    world.outbox.pump()
    [own] = world.chain.pool
    own.hash, own.data = "f" * 64, b"elsewhere"
    world.chain.mine(13)
    world.outbox.pump()

    [outcome] = world.outbox.outcomes([op])
    assert outcome.state is State.FAILED
    assert "from elsewhere" in str(outcome.reason)


def test_no_more_than_the_limit_is_on_its_way(world: World) -> None:
    for number in range(7):
        world.submit(b"good%d" % number)
    report = world.outbox.pump()

    assert report.signed == 4
    world.settle()
    assert len(world.chain.applied()) == 7


def test_two_senders_have_nonces_of_their_own(world: World) -> None:
    world.submit(b"good1")
    world.submit(b"good2", sender="gateway")
    world.settle()

    assert {sent.nonce for sent in world.chain.seen} == {0}
    assert len({sent.sender for sent in world.chain.seen}) == 2


def test_a_second_process_keeps_away_from_a_held_key(world: World) -> None:
    world.submit(b"good1")
    world.outbox.pump()
    other = world.open()
    world.submit(b"good2")
    report = other.pump()

    assert "holds the lease" in str(report.problem)
    assert len(world.chain.seen) == 1


def test_a_sender_that_lost_its_lease_writes_nothing(world: World) -> None:
    world.submit(b"good1")
    world.outbox.pump()
    other = world.open()
    world.pass_time(61)
    other.pump()
    world.submit(b"good2")
    world.now -= 45_000_000  # the first process's clock stood still
    report = world.outbox.pump()

    assert report.problem is not None
    assert all(sent.data == b"good1" for sent in world.chain.seen)


def test_an_act_waits_until_the_contracts_are_there(world: World) -> None:
    with world.database.transaction() as transaction:
        write = Write("Datanets.approve", TARGET, b"good1", acting="user/alice")
        world.outbox.submit(transaction, op_id("act"), write)

    assert "until the contracts are deployed" in str(world.outbox.pump().problem)


def test_a_closed_outbox_leaves_its_keys_to_others(world: World) -> None:
    world.submit(b"good1")
    world.outbox.pump()
    world.outbox.close()
    other = world.open()
    world.submit(b"good2")

    assert other.pump().signed == 1


def test_the_holder_of_the_home_goes_on_at_once_after_a_crash(world: World) -> None:
    world.submit(b"good1")
    world.open("home").pump()
    world.submit(b"good2")

    assert world.open("home").pump().signed == 1


def test_a_reorganisation_takes_a_mined_write_back_until_it_is_mined_again(world: World) -> None:
    op = world.submit(b"good1")
    world.outbox.pump()
    world.chain.mine(2)
    world.outbox.pump()
    world.chain.reorganise(3, keep=False)
    world.outbox.pump()
    [taken_back] = world.outbox.outcomes([op])
    world.pass_time(31)
    world.settle()

    assert (taken_back.state, taken_back.block, taken_back.tx_hash) == (State.SIGNED, None, None)
    assert len({sent.hash for sent in world.chain.seen}) == 1
    assert world.chain.applied() == [b"good1"]


def test_an_act_that_is_not_the_keys_to_do_fails_with_the_reason(world: World) -> None:
    class NotYours:
        def actor(self, _what: str, _calldata: bytes, _acting: str) -> Account:
            return TARGET

        def twin(self, _what: str, _calldata: bytes, _acting: str) -> bytes:
            raise InvalidInputError("not yours")

    world.outbox.relay = NotYours()  # type: ignore[assignment]  # all that is asked of it here
    with world.database.transaction() as transaction:
        write = Write("Escrow.deposit", TARGET, b"good1", acting="user/alice")
        world.outbox.submit(transaction, op_id("act"), write)
    behind = world.submit(b"good2")
    world.settle()

    [act, other] = world.outbox.outcomes([op_id("act"), behind])
    assert (act.state, act.reason) == (State.FAILED, "not yours")
    assert other.state is State.FINAL


def test_a_node_without_funds_makes_rows_wait(world: World) -> None:
    def poor(_form: dict[str, str]) -> str:
        raise RefusalError(-32003, "insufficient funds for gas * price + value")

    world.chain.eth_estimateGas = poor  # type: ignore[method-assign, assignment]  # until somebody funds it
    world.submit(b"good1")
    report = world.outbox.pump()
    del world.chain.eth_estimateGas  # funded
    world.settle()

    assert "insufficient funds" in str(report.problem)
    assert world.chain.applied() == [b"good1"]


def test_a_node_that_refuses_a_transaction_gets_it_again(world: World) -> None:
    original = world.chain.eth_sendRawTransaction

    def refuse(_raw: str) -> str:
        raise RefusalError(-32003, "the pool is full")

    world.chain.eth_sendRawTransaction = refuse  # type: ignore[method-assign, assignment]  # for a moment
    op = world.submit(b"good1")
    report = world.outbox.pump()
    world.chain.eth_sendRawTransaction = original  # type: ignore[method-assign]  # over
    world.settle()

    assert "the pool is full" in str(report.problem)
    assert world.outbox.outcomes([op])[0].state is State.FINAL
    assert len({sent.hash for sent in world.chain.seen}) == 1


def test_a_failure_without_a_reason_is_told_as_such(world: World) -> None:
    op = world.submit(b"trap1")
    world.chain.eth_call = lambda _form, _tag: "0x"  # type: ignore[method-assign, assignment]  # it works now
    world.settle()

    assert "without a reason" in str(world.outbox.outcomes([op])[0].reason)
