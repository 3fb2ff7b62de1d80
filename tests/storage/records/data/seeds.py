"""A Datanet and contributions to it."""

from openledger.core.types import Account
from openledger.storage.database import Transaction
from openledger.storage.records.data import contributions, datanets
from openledger.storage.records.data.contributions import Contribution, NewContribution
from openledger.storage.records.data.datanets import NewDatanet
from tests.storage.rows import GATEWAY, PAYER, digest_of

TUNES = NewDatanet(GATEWAY, "tunes", "Folk music", b"rules", 3000, 90)


def contribute(
    transaction: Transaction, raw: int = 1, contributor: Account = PAYER, now: int = 5
) -> Contribution:
    datanet = datanets.create(transaction, TUNES, 1)
    new = NewContribution(datanet.id, contributor, digest_of(raw), "tunes.abc", 0, False, bytes(32))
    return contributions.register(transaction, new, now)
