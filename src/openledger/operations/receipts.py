"""What can be asked about receipts."""

import msgspec

from openledger.attribution.evidence.shown import DocumentEvidence, Evidence
from openledger.core.types import Account, ReceiptId, Wei
from openledger.operations.operation import Operation

PENDING = "pending attribution"


class ShowReceipt(msgspec.Struct, frozen=True):
    """Which receipt, and whether to open its private fields."""

    receipt: str
    is_private: bool = False
    rows: int | None = None  # of how many clusters to open the rows; None: no vectors either
    draw: str = ""  # the checker's own word, by which clusters are drawn


class WhichEvidence(msgspec.Struct, frozen=True):
    """A receipt by its id, or by that of its answer; of a mix, one release of it."""

    receipt: str
    release: str | None = None  # owner/name@version, as the receipt names it


class PartView(msgspec.Struct, frozen=True):
    """One part of the fee."""

    role: str
    name: str
    account: Account
    amount: Wei
    share_ppb: int | None  # of the answer, for contributors


class ParentView(msgspec.Struct, frozen=True):
    """One release that a merge was made from."""

    name: str  # owner/name@version
    added_micronats: int  # what the answer would lose if it had not been merged


class MemberView(msgspec.Struct, frozen=True):
    """One release of the mix that answered; of a release alone the only one."""

    name: str  # owner/name@version
    weight_ppb: int
    added_micronats: int | None  # what the answer would lose without it; None: not known yet
    part_ppb: int | None  # of builder and data money, by what it added
    parents: tuple[ParentView, ...] = ()  # of a merge that has scores


class ReceiptView(msgspec.Struct, frozen=True):
    """A receipt for people; `bundle` is the file for a checker."""

    receipt: ReceiptId
    model: str
    members: tuple[MemberView, ...]
    state: str
    fee: Wei
    input_tokens: int
    output_tokens: int
    finish: str
    refund: str | None
    nobody_ppb: int
    notes: tuple[str, ...]  # why it has no shares, or none yet
    parts: tuple[PartView, ...]
    epoch: int | None
    bundle: bytes


class DocumentView(DocumentEvidence, frozen=True, kw_only=True):
    """One training document and the name of its contributor."""

    contributor: str


class EvidenceView(Evidence, frozen=True, kw_only=True):
    """What there is to see of one answer."""

    documents: tuple[DocumentView, ...]


SHOW = Operation("receipt.show", ShowReceipt, ReceiptView)
EVIDENCE = Operation("receipt.evidence", WhichEvidence, EvidenceView)
