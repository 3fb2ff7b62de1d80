"""What can be asked about Datanets and what people bring into them."""

import msgspec

from openledger.core.types import Account, Digest
from openledger.datanet.extract import File
from openledger.datanet.rules import Withdrawal
from openledger.operations.operation import Nothing, Operation


class NewDatanet(msgspec.Struct, frozen=True):
    """A Datanet to found."""

    name: str
    description: str
    licences: tuple[str, ...]
    owner: str = "operator"
    title: str = ""
    data_floor_bps: int = 3_000
    withdrawal: Withdrawal = Withdrawal.STOP_SERVING
    withdrawal_days: int = 90


class WhichDatanet(msgspec.Struct, frozen=True):
    """A Datanet by its name."""

    name: str


class Addition(msgspec.Struct, frozen=True):
    """Files of one contributor."""

    datanet: str
    contributor: str
    files: tuple[File, ...]
    licence: str = ""
    claim: str = "author"


class Behalf(msgspec.Struct, frozen=True):
    """Files of one author who did not come himself."""

    name: str
    file: File


class Import(msgspec.Struct, frozen=True):
    """Public text, brought in for its authors."""

    datanet: str
    authors: tuple[Behalf, ...]


class ContributionView(msgspec.Struct, frozen=True):
    """One contribution as it stands."""

    id: str
    number: int | None
    contributor: Account
    name: str
    on_behalf: bool
    state: str
    chunks: int
    reason: str | None


class DatanetView(msgspec.Struct, frozen=True):
    """A Datanet with its contributions."""

    name: str
    title: str
    owner: Account
    number: int | None
    licences: tuple[str, ...]
    data_floor_bps: int
    sequence: int
    head: Digest
    contributions: tuple[ContributionView, ...]


class DatanetLine(msgspec.Struct, frozen=True):
    """A Datanet in a list."""

    name: str
    title: str
    number: int | None


class DatanetList(msgspec.Struct, frozen=True):
    """All Datanets of this home."""

    datanets: tuple[DatanetLine, ...]


class Verified(msgspec.Struct, frozen=True):
    """What was checked of a Datanet; everything held."""

    name: str
    contributions: int
    chunks: int
    bytes: int


class Bring(msgspec.Struct, frozen=True):
    """A corpus to bring in, or a small part of it."""

    source: str
    training_tokens: int | None = None  # None: all of it
    held_out_tokens: int = 0  # more of the same, with other titles
    contributors: int | None = None  # of a part: the most prolific who have short texts


CREATE = Operation("datanet.create", NewDatanet, DatanetView)
ADD = Operation("datanet.add", Addition, ContributionView)
IMPORT = Operation("datanet.import", Import, DatanetView)
SHOW = Operation("datanet.show", WhichDatanet, DatanetView)
LIST = Operation("datanet.list", Nothing, DatanetList)
VERIFY = Operation("datanet.verify", WhichDatanet, Verified)
BRING = Operation("datanet.bring", Bring, DatanetView)
