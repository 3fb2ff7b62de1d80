"""Accounts, balances, deposits, keys and claims."""

import secrets
import string
from contextlib import suppress

import msgspec

from openledger.chain.contracts import OPERATOR
from openledger.chain.deployment import DEPLOYER
from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.core.types import Wei
from openledger.operations.operation import Nothing
from openledger.operations.wallets import (
    BALANCE,
    CLAIM,
    DEPOSIT,
    NEW,
    NEW_KEY,
    REVOKE_KEY,
    WITHDRAW,
    AccountView,
    Balance,
    Balances,
    Claimed,
    ClaimFor,
    Claims,
    Deposit,
    KeyView,
    Name,
    NewKey,
    Prefix,
    Withdraw,
    Withdrawal,
)
from openledger.storage.records.data import accounts
from openledger.storage.records.data.accounts import AccountKind, LocalAccount
from openledger.storage.records.money import balances, epochs
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import TREASURY, Platform, now_us

USER = "user/"
_RESERVED = frozenset({OPERATOR, TREASURY, DEPLOYER, "gateway"})  # labels of the platform's keys
_LONGEST_NAME = 100  # so that the label fits its column
_KEY_CHARACTERS = string.ascii_letters + string.digits
_KEY_LENGTH = 40


def new(platform: Platform, wanted: Name) -> AccountView:
    """Make a user's account, or find it.

    Raises:
        InvalidInputError: the name is reserved, or names a key that is no user's.
    """
    name = wanted.name
    if name.casefold() in _RESERVED:
        raise InvalidInputError(f"the name {name!r} is reserved for the platform; take another")
    if not name.isprintable() or not name.strip() or "/" in name or len(name) > _LONGEST_NAME:
        raise InvalidInputError(
            f"{name!r} is no name for an account: take 1 to {_LONGEST_NAME} printable characters "
            "without a slash"
        )
    return _view(platform.account(USER + name, AccountKind.USER, name))


def balance(platform: Platform, wanted: ClaimFor) -> Balances:
    """What accounts have."""
    found = _accounts(platform, wanted.name)
    return Balances(tuple(_balance(platform, one) for one in found))


def deposit(platform: Platform, wanted: Deposit) -> Balance:
    """Deposit; without a key every call is a deposit of its own."""
    payer = find(platform, wanted.name)
    name = wanted.key or secrets.token_hex(16)
    if wanted.from_faucet:
        platform.fund.faucet(payer.address, wanted.amount, name)
    platform.fund.deposit(payer, wanted.amount, name)
    return _balance(platform, payer)


def withdraw(platform: Platform, wanted: Withdraw) -> Withdrawal:
    """Take back what no call has used, after Escrow's delay."""
    payer = find(platform, wanted.name)
    key = wanted.key or secrets.token_hex(8)
    left = platform.fund.withdraw(payer, wanted.amount, key)
    return Withdrawal(payer.label, key, Wei(left.amount), left.ready_at)


def new_key(platform: Platform, wanted: NewKey) -> KeyView:
    """Make an API key whose calls are paid by an account's deposits."""
    payer = find(platform, wanted.name)
    secret = "sk-ol-" + "".join(secrets.choice(_KEY_CHARACTERS) for _ in range(_KEY_LENGTH))
    key = msgspec.structs.replace(
        accounts.api_key(secret, payer.address, wanted.label, now_us()),
        daily_cap=wanted.daily_cap,
        total_cap=wanted.total_cap,
    )
    with platform.database.transaction() as transaction:
        accounts.add_key(transaction, key)
    return KeyView(secret, key.prefix, payer.address)


def revoke_key(platform: Platform, wanted: Prefix) -> Nothing:
    """Refuse a key from now on."""
    with platform.database.transaction() as transaction:
        accounts.revoke(transaction, wanted.prefix, now_us())
    return Nothing()


def claim(platform: Platform, wanted: ClaimFor) -> Claims:
    """Claim for one account or for all of this home."""
    mine = {one.address: one for one in _accounts(platform, wanted.name)}
    paid = platform.claim.run(list(mine))
    views = tuple(
        Claimed(mine[one.account].label, one.account, one.amount, one.cumulative, one.tx_hash)
        for one in paid
    )
    return Claims(views, Wei(sum(one.amount for one in views)))


def find(platform: Platform, name: str) -> LocalAccount:
    """A local account by label, or by a user's short name.

    Raises:
        NotFoundError: none; the message holds the nearest names.
        InvalidInputError: no name.
    """
    if not name:
        raise InvalidInputError("say which account; `openledger wallet new NAME` makes one")
    with platform.database.read() as transaction:
        # The label first: a user who took the operator's name must not stand in for him.
        try:
            return accounts.by_label(transaction, name)
        except NotFoundError:
            with suppress(NotFoundError):
                return accounts.by_label(transaction, USER + name)
            raise


def _accounts(platform: Platform, name: str | None) -> list[LocalAccount]:
    if name is not None:
        return [find(platform, name)]
    with platform.database.read() as transaction:
        return accounts.list_all(transaction)


def _balance(platform: Platform, account: LocalAccount) -> Balance:
    gateway = platform.gateway.account
    contracts = platform.acts.contracts
    with platform.database.read() as transaction:
        has = balances.position(transaction, gateway, account.address)
        earned = epochs.earned_so_far(transaction, gateway).get(account.address, Wei(0))
    due = platform.claim.claimable([account.address])
    return Balance(
        label=account.label,
        address=account.address,
        wallet=Wei(contracts.read(int, "OpenToken", "balanceOf", account.address)),
        deposited=has.escrow.deposited,
        free=Wei(max(0, has.free)),
        earned=earned,
        claimable=due.get(account.address, Wei(0)),
        claimed=Wei(contracts.read(int, "Payouts", "claimed", gateway, account.address)),
    )


def _view(account: LocalAccount) -> AccountView:
    return AccountView(account.label, account.address, account.kind.value, account.display_name)


IMPLEMENTED = (
    Implementation(NEW, new),
    Implementation(BALANCE, balance),
    Implementation(DEPOSIT, deposit),
    Implementation(WITHDRAW, withdraw),
    Implementation(NEW_KEY, new_key),
    Implementation(REVOKE_KEY, revoke_key),
    Implementation(CLAIM, claim),
)
