import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from openledger.attribution.attribute import AnswerAttribution
from openledger.core.encoding import decode, digest_of, encode
from openledger.core.errors import (
    ConflictError,
    NotAllowedError,
    NotFoundError,
    NothingToSettleError,
    VerificationError,
)
from openledger.core.ids import parse_receipt_id, receipt_id
from openledger.core.types import PARTS_PER_BILLION
from openledger.flows.money.verify.public import verify_bundle
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.receipts import PENDING, ShowReceipt
from openledger.settlement.receipt import (
    NO_TRAINING_ROOT,
    Private,
    SignedCall,
    SignedStatement,
    read_statement,
    sign_call,
    verify_statement,
)
from openledger.storage import jobs
from openledger.storage.jobs import ATTRIBUTE_JOB, Job
from openledger.storage.private.envelope import open_envelope
from openledger.storage.records.money import calls
from openledger.web.operations import receipts
from openledger.wiring.platform import Platform, now_us, open_platform
from openledger.worker import Worker
from tests import market as fair


def test_a_statement_says_who_made_the_answer_and_is_made_once(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    first = fair.attribute(market, [receipt])
    second = fair.attribute(market, [receipt])
    with market.database.read() as transaction:
        call = decode(calls.get(transaction, receipt).record, SignedCall)
        row = calls.statement(transaction, receipt)
    assert row is not None
    statement = decode(row.record, SignedStatement)
    verify_statement(market.gateway.domain, call, statement)
    made = statement.body.attribution

    assert (first.asked, second.asked) == (1, 0)
    assert sum(share.weight_ppb for share in made.shares) + made.nobody_ppb == PARTS_PER_BILLION
    assert made.nobody_ppb == PARTS_PER_BILLION // 5
    assert {share.account for share in made.shares} == set(fair.contributors(market)[:2])


def test_a_receipt_that_does_not_exist_cannot_be_attributed(market: Platform) -> None:
    with pytest.raises(NotFoundError):
        fair.attribute(market, [receipt_id(bytes(16))])


def test_a_call_whose_text_is_erased_cannot_be_attributed(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE call_receipts SET private = NULL")

    with pytest.raises(VerificationError, match="erased"):
        fair.attribute(market, [receipt])


def test_once_it_is_attributed_only_the_payer_reads_the_text_of_a_call(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id

    def kept() -> bytes:
        with market.database.read() as transaction:
            private = calls.get(transaction, receipt).private
        assert private is not None
        return private

    before = decode(market.sealer.unseal(receipt, kept()), Private)
    fair.attribute(market, [receipt])
    fair.attribute(market, [receipt])
    key = market.keyring.private_key(fair.PAYER)

    assert before.prompt_ids()
    assert decode(open_envelope(key, receipt, kept()), Private) == before
    with pytest.raises(VerificationError):
        market.sealer.unseal(receipt, kept())
    with pytest.raises(VerificationError):
        open_envelope(market.keyring.private_key("operator"), receipt, kept())


def test_a_payer_of_elsewhere_is_not_opened_here(market: Platform, tokenizer: Tokenizer) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    wanted = ShowReceipt(made.receipt_id, is_private=True)
    assert receipts.show(market, wanted).bundle
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM accounts WHERE label = 'user/dev'")

    with pytest.raises(NotAllowedError, match="only the key of"):
        receipts.show(market, wanted)
    with pytest.raises(NotAllowedError, match="only the key of"):
        receipts.show(market, ShowReceipt(made.receipt_id, rows=1))


def test_vectors_are_erased_with_the_text(market: Platform, tokenizer: Tokenizer) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    with market.database.transaction() as transaction:
        said = calls.statement(transaction, made.receipt_id)
        assert said is not None
        assert said.vectors is not None
        calls.erase_private(transaction, now_us() + 1)

    with pytest.raises(ConflictError, match="query vectors of this call are erased"):
        receipts.show(market, ShowReceipt(made.receipt_id, rows=1))
    with pytest.raises(ConflictError, match="erased"):
        receipts.show(market, ShowReceipt(made.receipt_id, is_private=True))


def test_what_an_older_version_sealed_with_the_homes_key_is_opened_still(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    with market.database.read() as transaction:
        sealed = calls.get(transaction, receipt).private
    assert sealed is not None
    fair.attribute(market, [receipt])
    with market.database.transaction() as transaction:
        calls.hand_over(transaction, receipt, sealed)

    assert receipts.show(market, ShowReceipt(receipt, is_private=True)).bundle


def test_a_call_without_a_voucher_is_not_attributed_in_the_clear(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM vouchers")

    with pytest.raises(VerificationError, match="voucher"):
        fair.attribute(market, [receipt])


def statements(platform: Platform) -> dict[str, bytes]:
    """By receipt, as stored."""
    with platform.database.read() as transaction:
        rows = transaction.connection.exec_driver_sql("SELECT receipt, record FROM statements")
        return {row.receipt: row.record for row in rows}


def states_of_jobs(platform: Platform) -> list[str]:
    with platform.database.read() as transaction:
        found = transaction.connection.exec_driver_sql(
            "SELECT state FROM jobs WHERE kind = 'attribute'"
        )
        return [state for (state,) in found]


def worker(platform: Platform, scorer: fair.Scorer) -> Worker:
    """One that only attributes."""
    made = fair.attribution(platform, scorer)

    def handle(taken: Sequence[Job]) -> None:
        made.run([parse_receipt_id(job.key) for job in taken])

    handlers = {ATTRIBUTE_JOB: handle}
    with platform.database.transaction() as transaction:
        jobs.reclaim(transaction, list(handlers), now_us())
    return Worker(platform.database, handlers, lambda: None, now_us, together=handlers)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "stored"), [("1", 0), ("2", 1), ("3", 2), ("completing", 3)])
def test_a_killed_worker_loses_no_call_and_attributes_none_twice(
    market_home: Path, tmp_path: Path, tokenizer: Tokenizer, point: str, stored: int
) -> None:
    home = tmp_path / "home"
    with fair.open_copy(market_home, home) as platform:
        desk = fair.desk(platform, tokenizer)
        made = [fair.call(desk, fair.payer(platform).address) for _ in range(3)]
    command = [sys.executable, "-m", "tests.flows.money.dying_worker", str(home), point]
    died = subprocess.run(command, check=False, capture_output=True)
    with open_platform(fair.settings(home)) as platform:
        before = statements(platform)
        scorer = fair.Scorer(fair.contributors(platform))
        worker(platform, scorer).drain()
        after = statements(platform)
        epoch = platform.settle.run()
        done = states_of_jobs(platform)

    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert len(before) == stored
    assert before.items() <= after.items()
    assert set(after) == {one.receipt_id for one in made}
    assert scorer.asked == 3 - stored
    assert done == ["done"] * 3
    assert (epoch.size, epoch.drawn) == (3, sum(one.fee for one in made))


def test_one_call_that_cannot_be_attributed_keeps_no_other_waiting(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    made = [fair.call(desk, fair.payer(market).address).receipt_id for _ in range(3)]
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql(
            "UPDATE call_receipts SET private = NULL WHERE id = ?", (made[0],)
        )
    running = worker(market, fair.Scorer(fair.contributors(market)))
    running.drain()
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE jobs SET run_at = 0")
    running.drain()

    assert set(statements(market)) == set(made[1:])
    assert sorted(states_of_jobs(market)) == ["done", "done", "queued"]
    with pytest.raises(NothingToSettleError):  # the first is a gap: what follows it must wait
        market.settle.run()


def test_a_gap_ends_an_epoch_and_the_next_begins_with_it(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    made = [fair.call(desk, fair.payer(market).address) for _ in range(4)]
    fair.attribute(market, [made[place].receipt_id for place in (0, 2, 3)])
    first = market.settle.run()
    with pytest.raises(NothingToSettleError):
        market.settle.run()
    fair.attribute(market, [made[1].receipt_id])
    second = market.settle.run()

    assert (first.first, first.size, first.drawn) == (1, 1, made[0].fee)
    assert (second.first, second.size) == (2, 3)
    assert second.drawn == sum(one.fee for one in made[1:])


def test_a_release_without_a_manifest_pays_commons_and_says_so(
    market: Platform, tokenizer: Tokenizer
) -> None:
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql(
            "UPDATE releases SET training_root = ?", (NO_TRAINING_ROOT,)
        )
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    before = receipts.show(market, ShowReceipt(receipt))
    scorer = fair.attribute(market, [receipt])
    shown = receipts.show(market, ShowReceipt(receipt))

    assert (before.state, before.notes) == (PENDING, ())
    assert scorer.asked == 0
    assert {part.role for part in shown.parts} == {"platform", "builder", "node", "commons"}
    assert shown.nobody_ppb == PARTS_PER_BILLION
    assert "cannot be attributed" in shown.notes[0]
    assert verify_bundle(shown.bundle, None).fee == shown.fee
    assert market.settle.run().size == 1


def test_a_call_of_another_method_is_refused_and_waits(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    older = msgspec.structs.replace(desk.config, method=1)
    made = fair.call(msgspec.structs.replace(desk, config=older), fair.payer(market).address)

    with pytest.raises(VerificationError, match="attribution method 1"):
        fair.attribute(market, [made.receipt_id])
    with pytest.raises(NothingToSettleError):
        market.settle.run()


def test_an_answer_of_a_mix_is_stated_for_all_its_members(
    market: Platform, tokenizer: Tokenizer
) -> None:
    """Here the gateway signs one of two that share an adapter."""
    other = market.publish.run(fair.offer(fair.trained(market, "other"), "other"))
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    with market.database.read() as transaction:
        signed = decode(calls.get(transaction, receipt).record, SignedCall)
    [member] = signed.body.mix
    second = msgspec.structs.replace(member, release=other.number or 0, name=other.full_name)
    body = msgspec.structs.replace(signed.body, mix=(member, second))
    struct = msgspec.structs.replace(signed.call, body=digest_of(body))
    of_two = sign_call(market.gateway.domain, struct, body, market.gateway.private_key)
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql(
            "UPDATE call_receipts SET record = ?", (encode(of_two),)
        )
    fair.attribution(market, PairScorer(fair.contributors(market))).run([receipt])
    statement = read_statement(statements(market)[receipt])

    verify_statement(market.gateway.domain, of_two, statement)
    assert [one.leave_one_out_micronats for one in statement.body.members] == [800_000, -1]
    assert len(statement.body.roles.builders) == 2


class PairScorer(fair.Scorer):
    """The second member added nothing."""

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> tuple[AnswerAttribution, ...]:
        [first] = super().attribute(prompt_ids, answer_ids)
        return (first, msgspec.structs.replace(first, leave_one_out_micronats=-1))
