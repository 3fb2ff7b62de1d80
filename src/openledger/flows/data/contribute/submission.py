"""What comes into a Datanet, what became of it, and what the flow needs."""

from collections.abc import Callable

import msgspec

from openledger.chain.acts import Acts
from openledger.core.errors import OpenLedgerError
from openledger.datanet.contribution import Config
from openledger.datanet.extract import File
from openledger.storage.database import Database
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.data.contributions import Contribution
from openledger.storage.records.data.datanets import Datanet
from openledger.storage.vault import Vault


class Submission(msgspec.Struct, frozen=True):
    """One contributor's files."""

    contributor: LocalAccount
    files: tuple[File, ...]
    licence: str = ""  # of documents that do not name their own
    claim: int = 0  # 0 author, 1 licensee, 2 collector of public text
    on_behalf: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What became of one submission."""

    contribution: Contribution
    contributor: LocalAccount
    refusal: OpenLedgerError | None  # why it was refused; None when it is approved


class Intake(msgspec.Struct, frozen=True):
    """All that contributing needs, wired once."""

    database: Database
    vault: Vault
    acts: Acts
    network_key: bytes  # 32, of the duplicate index
    clock: Callable[[], int]  # microseconds since 1970
    random: Callable[[int], bytes]
    config: Config = Config()


class Entry(msgspec.Struct, frozen=True):
    """A submission with its row."""

    datanet: Datanet
    row: Contribution
    submission: Submission

    @property
    def salt(self) -> bytes:
        """What hides the raw bytes; gone once withdrawn."""
        assert self.row.salt is not None, "a withdrawn contribution takes part in nothing"
        return self.row.salt
