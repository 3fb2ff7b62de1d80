"""Once an epoch: draw what was spent from Escrow, and promise it to those who earned it.

Every pair is verified again before its epoch is closed. The epoch is a pure function of its
receipts, stored before the first transaction is queued, so that starting over does the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import msgspec
import structlog

from openledger.chain.abi import Argument
from openledger.chain.acts import Acts
from openledger.chain.contracts import Write
from openledger.chain.outbox.rows import State, op_id
from openledger.core.encoding import decode
from openledger.core.errors import NothingToSettleError
from openledger.core.merkle import Tree
from openledger.core.types import Account, Digest
from openledger.flows.money.settle.cover import Due, approve, unpaid
from openledger.settlement.epoch import Before, close, tree_of
from openledger.settlement.receipt import (
    CallReceipt,
    Receipt,
    SignedCall,
    read_statement,
    verify_call,
    verify_statement,
)
from openledger.settlement.voucher import Channel, SignedVoucher
from openledger.storage.database import Database, Transaction
from openledger.storage.records.money import balances, calls, epochs

log = structlog.get_logger()

# Escrow takes this many payers in one settlement; more payers make more epochs.
MOST_PAYERS = 32
MOST_RECEIPTS = 10_000


class _Draw(msgspec.Struct, frozen=True):
    """A payer's last receipt of the epoch, and the voucher that covers it."""

    index: int
    pair: calls.Pair
    voucher: SignedVoucher

    @property
    def receipt(self) -> CallReceipt:
        return decode(self.pair.call.record, SignedCall).call


@dataclass(frozen=True)
class Settle:
    """Settles one gateway's epochs; the gateway's key is the operator's."""

    database: Database
    acts: Acts
    gateway: Account
    clock: Callable[[], int]

    def run(self) -> epochs.Epoch:
        """Finish the open epoch, or close the next one and finish it.

        Raises:
            NothingToSettleError: no receipt waits to be settled.
            VerificationError: a stored receipt does not hold.
            ChainUnavailableError: the chain is down; run it again, nothing is lost.
        """
        with self.database.read() as transaction:
            newest = epochs.latest(transaction, self.gateway)
        if newest is None or newest.state is epochs.EpochState.ACTIVE:
            newest = self._close()
        return self._finish(newest)

    def _close(self) -> epochs.Epoch:
        # Checking thousands of signatures takes a while: nobody's call waits for it.
        with self.database.read() as transaction:
            first = epochs.next_first(transaction, self.gateway)
            pairs = fitting(list(calls.pairs(transaction, self.gateway, first, MOST_RECEIPTS)))
            before = Before(
                last=_last_before(transaction, self.gateway, first),
                cumulative=epochs.earned_so_far(transaction, self.gateway),
            )
        if not pairs:
            raise NothingToSettleError("no attributed receipt waits to be settled; make a call")
        domain = self.acts.contracts.domain("Escrow")
        receipts = [_receipt(pair) for pair in pairs]
        for receipt in receipts:
            verify_call(domain, receipt.call)
            verify_statement(domain, receipt.call, receipt.statement)
        made = close(domain, self.acts.contracts.deployment.payouts, receipts, before)
        new = epochs.NewEpoch(
            gateway=self.gateway,
            first=made.first,
            size=made.size,
            root=made.root,
            drawn=made.drawn,
            payouts_root=made.payouts_root,
            promised=made.promised,
        )
        earned = [(payout.account, payout.cumulative) for payout in made.payouts]
        with self.database.transaction() as transaction:
            return epochs.close(transaction, new, earned, self.clock())

    def _finish(self, epoch: epochs.Epoch) -> epochs.Epoch:
        states = epochs.EpochState
        if epoch.state is states.CLOSED:
            self._cover(epoch)
            epoch = self._do(epoch, states.SETTLED, self._settle_write)
        if epoch.state is states.SETTLED and not epoch.promised:
            return self._note(epoch, states.ACTIVE)  # nobody has earned anything yet
        if epoch.state is states.SETTLED:
            epoch = self._do(epoch, states.PROPOSED, self._propose_write)
        if epoch.state is states.PROPOSED:
            if self._is_vetoed():
                log.warning("the guardian vetoed the payouts; proposing again", epoch=epoch.number)
                self.acts.perform_latest(
                    self._next_proposal(epoch), partial(self._propose_write, epoch)
                )
            if self._must_wait():
                return epoch
            if self._is_activated():
                return self._note(epoch, states.ACTIVE)
            epoch = self._do(epoch, states.ACTIVE, self._activate_write)
        return epoch

    def _do(
        self, epoch: epochs.Epoch, state: epochs.EpochState, make: Callable[[epochs.Epoch], Write]
    ) -> epochs.Epoch:
        # What it holds, such as a voucher, may be newer than what was queued before.
        op = op_id(state.value, self.gateway, epoch.number)
        self.acts.perform_latest(op, partial(make, epoch))
        return self._note(epoch, state)

    def _is_vetoed(self) -> bool:
        """Whether a proposal that was made neither waits nor counts.

        Its root does not tell: an epoch of free calls promises what the one before did.
        """
        return not self._ready_at() and self._root_count() <= self._active_number()

    def _is_activated(self) -> bool:
        """Whether the proposal counts already; anyone may activate it."""
        return not self._ready_at() and self._root_count() > self._active_number()

    def _ready_at(self) -> int:
        return self.acts.contracts.read(_Pending, "Payouts", "pending", self.gateway).ready_at

    def _root_count(self) -> int:
        return self.acts.contracts.read(int, "Payouts", "root_count", self.gateway)

    def _active_number(self) -> int:
        with self.database.read() as transaction:
            return epochs.active_number(transaction, self.gateway)

    def _next_proposal(self, epoch: epochs.Epoch) -> Digest:
        """The operation after those that were proposed and vetoed."""
        name = (epochs.EpochState.PROPOSED.value, self.gateway, epoch.number)
        return next(op for turn in count(1) if not self._is_final(op := op_id(*name, turn)))

    def _is_final(self, op: Digest) -> bool:
        with self.database.read() as transaction:
            if not self.acts.outbox.is_known(transaction, op):
                return False
        return self.acts.outbox.outcomes([op])[0].state is State.FINAL

    def _must_wait(self) -> bool:
        """Whether the time in which a proposal can be vetoed still runs."""
        return self._ready_at() > self.acts.contracts.client.now_s(self.clock())

    def _note(self, epoch: epochs.Epoch, state: epochs.EpochState) -> epochs.Epoch:
        is_payable = state is epochs.EpochState.ACTIVE and epoch.promised
        number = self._root_count() if is_payable else None
        with self.database.transaction() as transaction:
            return epochs.advance(
                transaction,
                self.gateway,
                epoch.number,
                state,
                self.clock(),
                payout_number=number,
            )

    def _cover(self, epoch: epochs.Epoch) -> None:
        _, draws = self._draws(epoch)
        dues = [Due(draw.voucher, draw.receipt.payer_total) for draw in draws]
        missing = unpaid(self.acts.contracts, dues, self.acts.contracts.client.now_s(self.clock()))
        if missing:
            approve(self.acts, self.gateway, epoch.number, missing)

    def _draws(self, epoch: epochs.Epoch) -> tuple[Tree, list[_Draw]]:
        with self.database.read() as transaction:
            pairs = list(calls.pairs(transaction, self.gateway, epoch.first, epoch.size))
            last = {pair.call.payer: index for index, pair in enumerate(pairs)}
            draws = [
                _Draw(index, pairs[index], _voucher(transaction, self.gateway, payer))
                for payer, index in sorted(last.items(), key=lambda item: item[1])
            ]
        digests = ((pair.call.digest, pair.statement.digest) for pair in pairs)
        return tree_of(digests, epoch.root), draws

    def _settle_write(self, epoch: epochs.Epoch) -> Write:
        tree, draws = self._draws(epoch)
        return self.acts.contracts.write(
            "Escrow",
            "settle",
            self.gateway,
            epoch.first,
            epoch.size,
            epoch.root,
            [_argument(draw, tree) for draw in draws],
        )

    def _propose_write(self, epoch: epochs.Epoch) -> Write:
        with self.database.read() as transaction:
            size = sum(1 for _ in epochs.payouts_of(transaction, self.gateway, epoch.number))
        return self.acts.contracts.write(
            "Payouts",
            "propose",
            self.gateway,
            epoch.payouts_root,
            size,
            epoch.promised,
        )

    def _activate_write(self, _epoch: epochs.Epoch) -> Write:
        return self.acts.contracts.write("Payouts", "activate", self.gateway)


class _Pending(msgspec.Struct, frozen=True):
    ready_at: int  # unix seconds; 0: no proposal waits


def _last_before(transaction: Transaction, gateway: Account, first: int) -> CallReceipt | None:
    if first == balances.FIRST_SEQUENCE:
        return None
    row = next(calls.in_order(transaction, gateway, first - 1))
    return decode(row.record, SignedCall).call


def _receipt(pair: calls.Pair) -> Receipt:
    return Receipt(decode(pair.call.record, SignedCall), read_statement(pair.statement.record))


def fitting(pairs: Sequence[calls.Pair], most_payers: int = MOST_PAYERS) -> list[calls.Pair]:
    """The longest beginning with few enough payers for one settlement."""
    payers: set[Account] = set()
    for place, pair in enumerate(pairs):
        payers.add(pair.call.payer)
        if len(payers) > most_payers:
            return list(pairs[:place])
    return list(pairs)


def _voucher(transaction: Transaction, gateway: Account, payer: Account) -> SignedVoucher:
    row = balances.voucher(transaction, gateway, payer)
    assert row is not None, "no call is served without a voucher"
    return SignedVoucher(decode(row.channel, Channel), row.limit, row.signature)


def _argument(draw: _Draw, tree: Tree) -> Sequence[Argument]:
    return (
        draw.voucher.channel,
        draw.voucher.limit,
        bytes.fromhex(draw.voucher.signature),
        draw.receipt,
        draw.pair.statement.digest,
        draw.pair.call.payer_salt.hex(),
        draw.index,
        tree.prove(draw.index).path,
    )
