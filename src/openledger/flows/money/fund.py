"""Put money in: a payer's deposit in Escrow, and the voucher that lets the gateway draw on it.

The payer needs no gas: he signs an EIP-3009 authorization that binds gateway and operation, and
the operator sends it. The voucher's limit follows the deposits, so the gateway can never draw more
than was deposited, nor more than its receipts say.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak

from openledger.chain.acts import Acts
from openledger.chain.keys import Keyring
from openledger.chain.outbox.rows import op_id
from openledger.core.encoding import encode
from openledger.core.errors import InsufficientBalanceError, InvalidInputError, NotAllowedError
from openledger.core.signing import TypedRecord, sign_typed
from openledger.core.types import Account, Digest, Wei, as_bytes
from openledger.settlement.voucher import Channel, channel_id, sign_voucher
from openledger.storage.database import Database
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.money import balances

NO_LIMIT = Wei(2**127)
# The authorization is single-use and can only do what the payer signed, whenever it is sent.
_VALID_BEFORE_S = 2**40
_YEAR_S = 366 * 86_400


class ReceiveWithAuthorization(TypedRecord, frozen=True):
    """EIP-3009, under the token's domain."""

    solidity = {  # noqa: RUF012 - ClassVar
        "from": "address",
        "to": "address",
        "value": "uint256",
        "validAfter": "uint256",
        "validBefore": "uint256",
        "nonce": "bytes32",
    }

    payer: Account
    payee: Account
    value: Wei
    valid_after: int
    valid_before: int
    nonce: Digest


class EscrowView(msgspec.Struct, frozen=True):
    """What `Escrow.balance_of` returns, in wei."""

    deposited: int
    spent: int
    withdrawn: int


@dataclass(frozen=True)
class Fund:
    """Deposits and vouchers of the accounts of this home."""

    database: Database
    acts: Acts
    keyring: Keyring
    gateway: Account
    is_development: bool
    clock: Callable[[], int]
    random: Callable[[int], bytes]

    def faucet(self, account: Account, amount: Wei, name: str) -> None:
        """Give an account play money of the development chain; once per `name`.

        Raises:
            NotAllowedError: this is no development chain.
        """
        if not self.is_development:
            raise NotAllowedError("OPEN is handed out on the development chain only; buy some")
        contracts = self.acts.contracts
        write = contracts.write("OpenToken", "transfer", account, amount)
        self.acts.perform({op_id("faucet", account, name): write})

    def deposit(self, payer: LocalAccount, amount: Wei, name: str) -> balances.Position:
        """Deposit for calls at this gateway, and raise the voucher to all deposits; once per name.

        Raises:
            InvalidInputError: nothing to deposit.
            InsufficientBalanceError: the account does not hold as much.
        """
        if amount <= 0:
            raise InvalidInputError("deposit more than 0 OPEN")
        op = op_id("deposit", payer.address, name)
        if not self._is_deposited(payer, op):
            held = self.acts.contracts.read(int, "OpenToken", "balanceOf", payer.address)
            if held < amount:
                raise InsufficientBalanceError(
                    f"{payer.label} holds {held} wei of OPEN, less than {amount}; get some first"
                )
            self._send(payer, amount, op)
        self.refresh(payer.address)
        return self._raise_voucher(payer)

    def refresh(self, payer: Account) -> None:
        """Note what Escrow says about a payer now."""
        contracts = self.acts.contracts
        block = contracts.client.height()
        view = contracts.read(EscrowView, "Escrow", "balance_of", payer, self.gateway)
        row = balances.EscrowBalance(
            gateway=self.gateway,
            payer=payer,
            deposited=Wei(view.deposited),
            spent=Wei(view.spent),
            withdrawn=Wei(view.withdrawn),
            exiting=Wei(0),
            block=block,
        )
        with self.database.transaction() as transaction:
            balances.set_escrow(transaction, row)

    def _is_deposited(self, payer: LocalAccount, op: Digest) -> bool:
        return self.acts.contracts.read(bool, "Escrow", "ops", payer.address, op)

    def _send(self, payer: LocalAccount, amount: Wei, op: Digest) -> None:
        contracts = self.acts.contracts
        nonce = keccak(abi_encode(["address", "bytes32"], [self.gateway, as_bytes(op)]))
        record = ReceiveWithAuthorization(
            payer=payer.address,
            payee=contracts.deployment.escrow,
            value=amount,
            valid_after=0,
            valid_before=_VALID_BEFORE_S,
            nonce=Digest(nonce.hex()),
        )
        key = self.keyring.private_key(payer.label)
        signature = sign_typed(contracts.domain("OpenToken"), record, key)
        write = contracts.write(
            "Escrow",
            "deposit_for",
            payer.address,
            self.gateway,
            amount,
            op,
            _VALID_BEFORE_S,
            bytes.fromhex(signature),
        )
        self.acts.perform({op: write})

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
            return msgspec.convert(msgspec.json.decode(has.voucher.channel), Channel, strict=False)
        return Channel(
            payer=payer,
            gateway=self.gateway,
            expiry=now // 1_000_000 + _YEAR_S,
            price_ceiling=NO_LIMIT,
            daily_cap=NO_LIMIT,
            min_data_bps=0,
            salt=Digest(self.random(32).hex()),
        )
