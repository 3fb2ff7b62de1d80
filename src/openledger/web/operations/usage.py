"""How much each release is called, and what it earns; a mix counts in full for each member.

Read from the receipts alone, so that it can be made again from them, and in one pass over all of
the gateway's calls, since a call in the books names the first member of its mix only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from openledger.core.ids import parse_release_name
from openledger.core.types import Wei
from openledger.operations.models import USAGE, UsageList, UsageView, WhichUsage
from openledger.settlement.parts import BUILDER, DATA, PARENT, Earned, Part, earned_by_member
from openledger.settlement.receipt import CallBody, SignedCall, SignedStatement, StatedMethod
from openledger.settlement.shares import check_method
from openledger.storage.database import Transaction
from openledger.storage.records.model import releases
from openledger.storage.records.money import calls
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform

Record = TypeVar("Record", bound=msgspec.Struct)


def usage(platform: Platform, which: WhichUsage) -> UsageList:
    """Count the calls of these releases at this gateway."""
    with platform.database.read() as transaction:
        wanted = _wanted(transaction, which.name)
        numbers = {one.number for one in wanted if one.number is not None}
        counts = tally(calls.metered(transaction, platform.gateway.account), numbers)
    never = Count()  # of one that is still being published
    found = [never if one.number is None else counts[one.number] for one in wanted]
    pairs = zip(wanted, found, strict=True)
    return UsageList(tuple(UsageView(one.full_name, **vars(count)) for one, count in pairs))


@dataclass
class Count:
    """What one release was called for; see `UsageView`."""

    alone: int = 0
    mixed: int = 0
    refunded: int = 0
    pending: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    fees: int = 0
    builder: int = 0
    data: int = 0
    parent: int = 0


def tally(metered: Iterable[calls.Metered], numbers: Iterable[int]) -> dict[int, Count]:
    """Count calls for the releases with these numbers.

    Raises:
        VerificationError: a statement about a mix follows a method that this version does not know.
    """
    counts = {number: Count() for number in numbers}
    for call in metered:
        _count(call, counts)
    return counts


class _Parts(msgspec.Struct, frozen=True):
    parts: tuple[Part, ...]


class _StatedParts(msgspec.Struct, frozen=True):
    """What is counted of a statement about one release, of whatever method."""

    body: _Parts


def _wanted(transaction: Transaction, name: str | None) -> list[releases.Release]:
    if name is None:
        return releases.list_all(transaction)
    return releases.versions(transaction, parse_release_name(name))


def _count(call: calls.Metered, counts: Mapping[int, Count]) -> None:
    body = _read(call.record, SignedCall).body
    named = [counts.get(member.release) for member in body.mix]
    if not any(named):
        return
    earned = None if call.stated is None else _earned(call.fee, body, call.stated)
    for place, count in enumerate(named):
        if count is None:
            continue
        count.pending += earned is None
        if body.refund is not None:
            count.refunded += 1
            continue
        count.alone += len(named) == 1
        count.mixed += len(named) > 1
        count.input_tokens += body.input_tokens
        count.output_tokens += body.output_tokens
        count.fees += call.fee
        if earned is not None:
            count.builder += earned[place].builder
            count.data += earned[place].data
            count.parent += earned[place].parent


def _earned(fee: Wei, body: CallBody, stated: bytes) -> Sequence[Earned]:
    if len(body.mix) == 1:  # all of the parts is its own: no need to read its many scores
        parts = _read(stated, _StatedParts).body.parts
        return (Earned(*(_sum(parts, role) for role in (BUILDER, DATA, PARENT))),)
    check_method(_read(stated, StatedMethod).body.method)
    said = _read(stated, SignedStatement).body
    return earned_by_member(fee, body.terms.policy, said.roles, said.members, said.attribution)


def _read(raw: bytes, kind: type[Record]) -> Record:
    # As stored: the checks of `decode`, for bytes from others, would take twenty times as long.
    return msgspec.json.decode(raw, type=kind, strict=False)


def _sum(parts: Sequence[Part], role: str) -> Wei:
    return Wei(sum(part.amount for part in parts if part.role == role))


IMPLEMENTED = (Implementation(USAGE, usage),)
