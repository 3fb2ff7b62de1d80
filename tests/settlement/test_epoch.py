"""Epochs: a pure function of receipts; payouts are cumulative and conserve the fees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import ConflictError, VerificationError
from openledger.core.merkle import verify
from openledger.core.signing import digest_typed
from openledger.core.types import Account, Wei
from openledger.settlement.epoch import (
    Before,
    Payout,
    close,
    payout_leaf,
    payout_tree,
    receipt_tree,
    tree_of,
)
from openledger.settlement.receipt import leaf
from tests.settlement.ledger import DOMAIN, GATEWAY, PAYOUTS, run

RECEIPTS = run(6)


@given(st.integers(1, 5))
def test_two_epochs_promise_what_was_drawn(cut: int) -> None:
    first = close(DOMAIN, PAYOUTS, RECEIPTS[:cut], Before())
    earlier = {payout.account: payout.cumulative for payout in first.payouts}
    second = close(DOMAIN, PAYOUTS, RECEIPTS[cut:], Before(RECEIPTS[cut - 1].call.call, earlier))

    assert first.promised == first.drawn
    assert second.promised == first.drawn + second.drawn
    assert second.promised == RECEIPTS[-1].call.call.gateway_total
    assert second.first == cut + 1


def test_every_receipt_and_payout_can_be_proved() -> None:
    epoch = close(DOMAIN, PAYOUTS, RECEIPTS, Before())
    receipts = receipt_tree(DOMAIN, RECEIPTS)
    payouts = payout_tree(DOMAIN, PAYOUTS, GATEWAY, epoch.payouts)

    for index, receipt in enumerate(RECEIPTS):
        verify(leaf(DOMAIN, receipt), receipts.prove(index), epoch.root)
    for index, payout in enumerate(epoch.payouts):
        raw = payout_leaf(DOMAIN.chain_id, PAYOUTS, GATEWAY, payout)
        verify(raw, payouts.prove(index), epoch.payouts_root)


def test_the_digests_of_the_pairs_are_enough_for_the_tree_and_no_others_pass() -> None:
    epoch = close(DOMAIN, PAYOUTS, RECEIPTS, Before())
    digests = [
        (
            digest_typed(DOMAIN, receipt.call.call),
            digest_typed(DOMAIN, receipt.statement.statement),
        )
        for receipt in RECEIPTS
    ]
    tree = tree_of(digests, epoch.root)

    assert tree.prove(3) == receipt_tree(DOMAIN, RECEIPTS).prove(3)
    for others in (digests[:-1], digests[::-1], [digests[0][::-1], *digests[1:]]):
        with pytest.raises(VerificationError, match="not those of the epoch"):
            tree_of(others, epoch.root)


def test_a_payout_leaf_has_fixed_width() -> None:
    payout = Payout(Account("0x" + "11" * 20), Wei(5))

    assert len(payout_leaf(1, PAYOUTS, GATEWAY, payout)) == 160


def test_an_epoch_without_receipts_is_refused() -> None:
    with pytest.raises(ConflictError, match="at least one receipt"):
        close(DOMAIN, PAYOUTS, [], Before())


def test_an_epoch_with_a_gap_is_refused() -> None:
    with pytest.raises(VerificationError, match="does not continue"):
        close(DOMAIN, PAYOUTS, [RECEIPTS[0], RECEIPTS[2]], Before())


def test_an_epoch_continues_the_one_before() -> None:
    with pytest.raises(VerificationError, match="does not continue"):
        close(DOMAIN, PAYOUTS, RECEIPTS[2:], Before(RECEIPTS[0].call.call, {}))
    with pytest.raises(VerificationError, match="does not continue"):
        close(DOMAIN, PAYOUTS, RECEIPTS[1:], Before())
