"""Accounts, balances, deposits, keys and claims."""

import secrets
import string
from contextlib import suppress

import msgspec

from openledger.chain.contracts import OPERATOR
from openledger.chain.deployment import DEPLOYER
from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.core.types import Account, Digest, Wei
from openledger.storage.records.data import accounts
from openledger.storage.records.data.accounts import AccountKind, LocalAccount
from openledger.storage.records.money import balances, epochs
from openledger.web.operations.operation import Nothing, Operation
from openledger.wiring.platform import TREASURY, Platform, now_us

USER = "user/"
_RESERVED = frozenset({OPERATOR, TREASURY, DEPLOYER, "gateway"})  # labels of the platform's keys
_LONGEST_NAME = 100  # so that the label fits its column
_KEY_CHARACTERS = string.ascii_letters + string.digits
_KEY_LENGTH = 40


class Name(msgspec.Struct, frozen=True):
    """A local account by its short name or its label."""

    name: str


class AccountView(msgspec.Struct, frozen=True):
    """An account of this home."""

    label: str
    address: Account
    kind: str
    display_name: str


class Balance(msgspec.Struct, frozen=True):
    """Everything one account has, in wei."""

    label: str
    address: Account
    wallet: Wei  # OPEN at the address itself
    deposited: Wei  # in Escrow for this gateway, ever
    free: Wei  # of it, neither used nor held
    earned: Wei  # promised by all closed epochs
    claimable: Wei
    claimed: Wei


class Balances(msgspec.Struct, frozen=True):
    """Several accounts."""

    accounts: tuple[Balance, ...]


class Deposit(msgspec.Struct, frozen=True):
    """Money for calls at this gateway."""

    name: str
    amount: Wei
    from_faucet: bool  # take play money first; development chain only
    key: str | None = None  # the same key is the same deposit, however often it comes; None: a new


class Withdraw(msgspec.Struct, frozen=True):
    """Money that no call has used, to take back."""

    name: str
    amount: Wei
    key: str | None = None  # the same key is the same withdrawal; None: a new one


class Withdrawal(msgspec.Struct, frozen=True):
    """How far a withdrawal came."""

    label: str
    key: str
    waiting: Wei  # still in Escrow; 0 once it is paid out
    ready_at: int  # unix seconds from which the same withdrawal, made again, pays out


class NewKey(msgspec.Struct, frozen=True):
    """An API key to make."""

    name: str
    label: str = "key"
    daily_cap: Wei | None = None
    total_cap: Wei | None = None


class KeyView(msgspec.Struct, frozen=True):
    """A fresh API key; shown once."""

    key: str
    prefix: str
    account: Account


class Prefix(msgspec.Struct, frozen=True):
    """An API key by its public part."""

    prefix: str


class Claimed(msgspec.Struct, frozen=True):
    """What one account was paid."""

    label: str
    account: Account
    amount: Wei
    cumulative: Wei
    tx_hash: Digest


class Claims(msgspec.Struct, frozen=True):
    """What was paid out."""

    paid: tuple[Claimed, ...]
    total: Wei


class ClaimFor(msgspec.Struct, frozen=True):
    """Accounts to claim for; None: every account of this home."""

    name: str | None = None


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


NEW = Operation("wallet.new", Name, AccountView, new)
BALANCE = Operation("wallet.balance", ClaimFor, Balances, balance)
DEPOSIT = Operation("wallet.deposit", Deposit, Balance, deposit)
WITHDRAW = Operation("wallet.withdraw", Withdraw, Withdrawal, withdraw)
NEW_KEY = Operation("wallet.key", NewKey, KeyView, new_key)
REVOKE_KEY = Operation("wallet.revoke", Prefix, Nothing, revoke_key)
CLAIM = Operation("wallet.claim", ClaimFor, Claims, claim)
