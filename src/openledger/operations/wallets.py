"""What can be asked about accounts, balances, deposits, keys and claims."""

import msgspec

from openledger.core.types import Account, Digest, Wei
from openledger.operations.operation import Nothing, Operation


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


NEW = Operation("wallet.new", Name, AccountView)
BALANCE = Operation("wallet.balance", ClaimFor, Balances)
DEPOSIT = Operation("wallet.deposit", Deposit, Balance)
WITHDRAW = Operation("wallet.withdraw", Withdraw, Withdrawal)
NEW_KEY = Operation("wallet.key", NewKey, KeyView)
REVOKE_KEY = Operation("wallet.revoke", Prefix, Nothing)
CLAIM = Operation("wallet.claim", ClaimFor, Claims)
