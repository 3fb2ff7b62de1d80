"""Evidence for pages: what the flow found, with the names that contributors go by."""

from typing import TYPE_CHECKING

import msgspec

from openledger.attribution.evidence.shown import Evidence
from openledger.operations.receipts import DocumentView, EvidenceView
from openledger.storage.database import Database
from openledger.storage.records.data import accounts
from openledger.web.platform_api import AskedEvidence

if TYPE_CHECKING:
    from openledger.flows.money.evidence import ShowEvidence


def evidence_view(database: Database, found: Evidence) -> EvidenceView:
    """Put the names in."""
    with database.read() as transaction:
        names = {one.address: one.display_name for one in accounts.list_all(transaction)}
    documents = tuple(
        DocumentView(**msgspec.structs.asdict(one), contributor=names.get(one.account, ""))
        for one in found.documents
    )
    return EvidenceView(**msgspec.structs.asdict(found) | {"documents": documents})


def evidence_of(database: Database, show: "ShowEvidence", asked: AskedEvidence) -> msgspec.Raw:
    """See `platform_api.EvidenceOf`."""
    found = show.run(asked.receipt, asked.asker, asked.member)
    return msgspec.Raw(msgspec.json.encode(evidence_view(database, found)))
