"""The file a checker gets: the bundle of one receipt.

Version 1 of a bundle is public. Version 2, for the parties and for drawn auditors, adds what the
integer scores were made from: query vectors and rows of the release, each with its proof.
"""

import msgspec

from openledger.core.encoding import decode, encode, from_wire
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.merkle import Proof
from openledger.core.types import Account, Digest, ReceiptId, Wei
from openledger.settlement.receipt import CallReceipt, Receipt, StatedMethod
from openledger.settlement.shares import check_method

BUNDLE_VERSION = 1
FULL_BUNDLE_VERSION = 2
PAYER = "payer"


class EpochProof(msgspec.Struct, frozen=True):
    """Where the receipt stands in its epoch."""

    first: int
    root: Digest
    proof: Proof
    signature: str  # the gateway's, over `EpochRoot`


class Opening(msgspec.Struct, frozen=True):
    """One private field, opened: `payer`, or a name of `PrivateDigests`."""

    name: str
    salt: Digest
    value: str


class Bundle(msgspec.Struct, frozen=True):
    """All that a checker of one receipt needs."""

    version: int
    receipt: Receipt
    previous: CallReceipt | None  # None for a gateway's first call
    epoch: EpochProof | None  # None until it is settled
    openings: tuple[Opening, ...] = ()


class OpenedRow(msgspec.Struct, frozen=True):
    """One leaf under the training root, with its row where it has one of its own."""

    leaf: str  # canonical JSON
    proof: Proof
    row: str | None  # base64 of the row's integers, little-endian


class OpenedScores(msgspec.Struct, frozen=True):
    """What the scores of one member of the mix were made from."""

    release: int
    queries: tuple[str, ...]  # one a segment: base64 of 16-bit integers, little-endian
    rows: tuple[OpenedRow, ...]  # by their place in the tree


class FullBundle(Bundle, frozen=True):
    """A bundle of version 2."""

    opened: tuple[OpenedScores, ...] = ()


class Difference(msgspec.Struct, frozen=True):
    """One account's share as made again, less the signed one; audits sum these up by account."""

    account: Account
    weight_ppb: int


class Report(msgspec.Struct, frozen=True):
    """What was checked, in words; every line held."""

    receipt: ReceiptId
    level: str
    is_anchored: bool
    fee: Wei
    checks: tuple[str, ...]
    distance_ppb: int | None = None  # of the signed shares from those made again; level 2
    differences: tuple[Difference, ...] = ()  # which make that distance, nobody's aside

    def raised(self, level: str, checks: tuple[str, ...]) -> "Report":
        """The report of a higher level, which holds besides."""
        return msgspec.structs.replace(self, level=level, checks=(*self.checks, *checks))


def pack(bundle: Bundle) -> bytes:
    """The bytes of a bundle file."""
    return encode(bundle)


def read_bundle(raw: bytes) -> Bundle:
    """Read a bundle file; nothing in it is checked yet.

    Raises:
        VerificationError: it is none, or its version or that of its method is unknown here.
    """
    try:
        stated = from_wire(raw, _Stated)
    except InvalidInputError as error:
        raise VerificationError(f"these bytes are no bundle: {error}") from error
    if stated.version not in _FORMS:
        raise VerificationError(f"bundle version {stated.version} is unknown to this verifier")
    check_method(stated.receipt.statement.body.method)
    return decode(raw, _FORMS[stated.version])


_FORMS: dict[int, type[Bundle]] = {BUNDLE_VERSION: Bundle, FULL_BUNDLE_VERSION: FullBundle}


class _StatedReceipt(msgspec.Struct):
    statement: StatedMethod


class _Stated(msgspec.Struct):
    """What every version of a bundle has, whatever its statement looks like."""

    version: int
    receipt: _StatedReceipt
