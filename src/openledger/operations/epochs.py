"""What can be asked about epochs and the money identity."""

import msgspec

from openledger.core.identity import Identity
from openledger.core.types import Account, Digest, Wei
from openledger.flows.money.verify.anchors import Anchors
from openledger.operations.operation import Nothing, Operation


class WhichEpoch(msgspec.Struct, frozen=True):
    """An epoch by number; None: the newest."""

    number: int | None = None


class Payout(msgspec.Struct, frozen=True):
    """One line of an epoch's payouts."""

    name: str
    account: Account
    cumulative: Wei


class EpochView(msgspec.Struct, frozen=True):
    """An epoch with what it promises."""

    number: int
    state: str
    first: int
    size: int
    root: Digest
    drawn: Wei
    promised: Wei
    payouts: tuple[Payout, ...]
    anchors: Anchors  # read from the chain, for `receipt verify`


SETTLE = Operation("epoch.settle", Nothing, EpochView)
SHOW = Operation("epoch.show", WhichEpoch, EpochView)
IDENTITY = Operation("epoch.identity", Nothing, Identity)
