"""Put money in and take it out: a payer's deposit in Escrow, the voucher on it, and the exit.

The payer needs no gas: an EIP-3009 authorization of his binds gateway and operation, and the
operator sends it (`chain.relay`). The voucher's limit follows the deposits, so the gateway can
never draw more than was deposited, nor more than its receipts say.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from openledger.chain.acts import Acts
from openledger.chain.contracts import escrow_balance
from openledger.chain.keys import Keyring
from openledger.chain.outbox.faucet import give
from openledger.chain.outbox.rows import op_id
from openledger.core.encoding import decode, encode
from openledger.core.errors import InsufficientBalanceError, InvalidInputError
from openledger.core.types import Account, Digest, Wei
from openledger.settlement.voucher import Channel, channel_id, sign_voucher
from openledger.storage.database import Database
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.money import balances

NO_LIMIT = Wei(2**127)
_YEAR_S = 366 * 86_400
_RENEW_S = 30 * 86_400  # a voucher with less time left is replaced at the next deposit


class Exit(msgspec.Struct, frozen=True):
    """What a payer asked back; wei, and unix seconds from which it is paid out."""

    amount: int
    ready_at: int  # 0: nothing is asked back


@dataclass(frozen=True)
class Fund:
    """Deposits and vouchers of the accounts of this home."""

    database: Database
    acts: Acts
    keyring: Keyring
    gateway: Account
    clock: Callable[[], int]
    random: Callable[[int], bytes]

    def faucet(self, account: Account, amount: Wei, name: str) -> None:
        """Give an account play money of the development chain; once per `name`.

        Raises:
            NotAllowedError: this is no development chain.
        """
        with self.database.transaction() as transaction:
            outbox, contracts = self.acts.outbox, self.acts.contracts
            op = give(transaction, outbox, contracts, account, amount, name)
        self.acts.confirm_again([op])

    def deposit(self, payer: LocalAccount, amount: Wei, name: str) -> balances.Position:
        """Deposit for calls at this gateway, and raise the voucher to all deposits; once per name.

        Raises:
            InvalidInputError: nothing to deposit.
            InsufficientBalanceError: the account does not hold as much.
            ConflictError: the same name was another amount.
        """
        if amount <= 0:
            raise InvalidInputError("deposit more than 0 OPEN")
        op = op_id("deposit", payer.address, name)
        with self.database.read() as transaction:
            is_known = self.acts.outbox.is_known(transaction, op)
        if is_known or not self._is_deposited(payer, op):
            if not is_known:
                self._require_held(payer, amount)
            write = self.acts.contracts.write(
                "Escrow", "deposit", payer.address, self.gateway, amount, op, acting=payer.label
            )
            self.acts.perform({op: write})
        self.refresh(payer.address)
        return self._raise_voucher(payer)

    def withdraw(self, payer: LocalAccount, amount: Wei, name: str) -> Exit:
        """Take money back that no call has used: ask for it, and once its time has come take it.

        Called again under the same name it goes on where it was; a new one replaces it.

        Returns:
            What still waits; nothing once it is paid out, to the account's payee.

        Raises:
            InvalidInputError: nothing to withdraw.
            InsufficientBalanceError: calls have used or hold a part of it.
            ChainUnavailableError: the chain is down; call again.
        """
        if amount <= 0:
            raise InvalidInputError("withdraw more than 0 OPEN")
        acts = self.acts
        ask, take = (op_id(act, payer.address, name) for act in ("request exit", "exit"))
        self._require_free(payer, amount, ask)
        request = acts.contracts.write(
            "Escrow", "request_exit", self.gateway, amount, acting=payer.label
        )
        acts.perform({ask: request})
        waiting = self.exit_of(payer.address)
        if 0 < waiting.ready_at <= acts.contracts.client.now_s(self.clock()):
            write = acts.contracts.write("Escrow", "exit", self.gateway, acting=payer.label)
            acts.perform({take: write})
        self.refresh(payer.address)
        return self.exit_of(payer.address)

    def exit_of(self, payer: Account) -> Exit:
        """What a payer asked back and was not paid yet."""
        return self.acts.contracts.read(Exit, "Escrow", "exits", payer, self.gateway)

    def refresh(self, payer: Account) -> None:
        """Note what Escrow says about a payer now."""
        contracts = self.acts.contracts
        block = contracts.client.height()
        view = escrow_balance(contracts, payer, self.gateway)
        exit_ = self.exit_of(payer)
        row = balances.EscrowBalance(
            gateway=self.gateway,
            payer=payer,
            deposited=Wei(view.deposited),
            spent=Wei(view.spent),
            withdrawn=Wei(view.withdrawn),
            exiting=Wei(exit_.amount),
            block=block,
        )
        with self.database.transaction() as transaction:
            balances.set_escrow(transaction, row)

    def _require_held(self, payer: LocalAccount, amount: Wei) -> None:
        held = self.acts.contracts.read(int, "OpenToken", "balanceOf", payer.address)
        if held < amount:
            raise InsufficientBalanceError(
                f"{payer.label} holds {held} wei of OPEN, less than {amount}; get some first"
            )

    def _require_free(self, payer: LocalAccount, amount: Wei, ask: Digest) -> None:
        self.refresh(payer.address)
        with self.database.transaction() as transaction:
            if self.acts.outbox.is_known(transaction, ask):
                return
            has = balances.position(transaction, self.gateway, payer.address)
        free = has.free + has.escrow.exiting  # a new request replaces the one that waits
        if amount > free:
            raise InsufficientBalanceError(
                f"{payer.label} has {max(0, free)} wei here that no call has used, less than "
                f"{amount}; withdraw less"
            )

    def _is_deposited(self, payer: LocalAccount, op: Digest) -> bool:
        return self.acts.contracts.read(bool, "Escrow", "ops", payer.address, op)

    def _raise_voucher(self, payer: LocalAccount) -> balances.Position:
        contracts = self.acts.contracts
        domain, token = contracts.domain("Escrow"), contracts.deployment.open_token
        now = self.clock()
        with self.database.transaction() as transaction:
            has = balances.position(transaction, self.gateway, payer.address)
            channel = self._channel(has, payer.address, now)
            limit = Wei(has.escrow.deposited - has.escrow.withdrawn)
            signed = sign_voucher(
                domain, token, channel, limit, self.keyring.private_key(payer.label)
            )
            row = balances.VoucherRow(
                gateway=self.gateway,
                payer=payer.address,
                channel_id=channel_id(domain, token, channel),
                channel=encode(channel),
                limit=limit,
                signature=signed.signature,
                updated_at=now,
            )
            balances.set_voucher(transaction, row)
            return balances.position(transaction, self.gateway, payer.address)

    def _channel(self, has: balances.Position, payer: Account, now: int) -> Channel:
        if has.voucher is not None:
            channel = decode(has.voucher.channel, Channel)
            if channel.expiry > now // 1_000_000 + _RENEW_S:
                return channel
        return Channel(
            payer=payer,
            gateway=self.gateway,
            expiry=now // 1_000_000 + _YEAR_S,
            price_ceiling=NO_LIMIT,
            daily_cap=NO_LIMIT,
            min_data_bps=0,
            salt=Digest(self.random(32).hex()),
        )
