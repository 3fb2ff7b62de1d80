"""After the answer: whose data made it, signed; off the token path, on the worker.

A statement is made once. Running it again finds the one that is stored. With it what was kept of
the call's text, which this home could read until then, is handed over to the payer: it is encrypted
to his key, and so are the query vectors, which tell as much as the text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from openledger.core.encoding import decode, encode
from openledger.core.errors import NotFoundError, VerificationError
from openledger.core.signing import digest_typed
from openledger.core.types import Account, Precision, ReceiptId
from openledger.settlement import receipt as receipts
from openledger.settlement.parts import Roles, stored_parents
from openledger.settlement.receipt import Gateway, Private, SignedCall, SignedStatement
from openledger.settlement.shares import MemberScores, Segment, Unscored, check_method
from openledger.settlement.voucher import Channel, SignedVoucher, payer_key
from openledger.storage.database import Database, Transaction
from openledger.storage.private.envelope import seal_to
from openledger.storage.records.model import releases
from openledger.storage.records.money import balances, calls
from openledger.storage.vault import Sealer


class Scores(Protocol):
    """The integers of one member's part in an answer, as `attribution.mix` gives them."""

    @property
    def unscored(self) -> Unscored | None: ...
    @property
    def leave_one_out_micronats(self) -> int: ...
    @property
    def segments(self) -> tuple[Segment, ...]: ...
    def of(self, release: int, weight_ppb: int) -> MemberScores: ...
    @property
    def vectors(self) -> tuple[str, ...]: ...


class Vectors(msgspec.Struct, frozen=True):
    """The query vectors of a statement, in base64; what `full` bundles open."""

    members: tuple[tuple[str, ...], ...]  # of each member one a segment, empty where none is owed


class _Scored(msgspec.Struct, frozen=True):
    members: tuple[MemberScores, ...]
    vectors: Vectors


class Scorer(Protocol):
    """The releases of one mix, ready to score answers."""

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> Sequence[Scores]: ...


class Member(msgspec.Struct, frozen=True):
    """One release of the mix that answered."""

    release: releases.Release
    weight_ppb: int


class ScorerOf(Protocol):
    """Finds the releases of a mix."""

    def __call__(self, mix: tuple[Member, ...], /, *, is_audited: bool) -> Scorer:
        """To be scored by influence, or audited by their half-data adapters, too.

        Raises:
            NotAllowedError: an audit is asked of a release that has no such adapters.
        """
        ...


class _Due(msgspec.Struct, frozen=True):
    """A call without its statement."""

    call: calls.Call
    signed: SignedCall
    mix: tuple[Member, ...]


@dataclass(frozen=True)
class Attribute:
    """Makes attribution statements for one gateway."""

    database: Database
    gateway: Gateway
    sealer: Sealer
    scorer_of: ScorerOf
    precision: Precision  # in which scorers compute
    token: Account  # of vouchers
    commons: Account
    platform: Account
    clock: Callable[[], int]

    def run(self, wanted: Sequence[ReceiptId]) -> None:
        """Attribute calls that have no statement yet, those of one mix after each other.

        Each statement is stored as soon as it is made: when one call fails, run the rest again.

        Raises:
            NotFoundError: no such receipt, or its release's attribution state is gone.
            DigestMismatchError: that state is not what was released.
            VerificationError: what was kept of a call is gone or altered, or it follows a method
                that this version does not know.
        """
        with self.database.read() as transaction:
            found = [self._due(transaction, receipt) for receipt in wanted]
        due = [one for one in found if one is not None]
        for one in sorted(due, key=lambda one: [member.release.id for member in one.mix]):
            self._state(one)

    def _due(self, transaction: Transaction, receipt: ReceiptId) -> _Due | None:
        if calls.statement(transaction, receipt) is not None:
            return None
        call = calls.get(transaction, receipt)
        signed = decode(call.record, SignedCall)
        check_method(signed.body.method)
        mix = []
        for member in signed.body.mix:
            release = releases.by_number(transaction, member.release)
            if release is None:
                raise NotFoundError(f"release {member.release} of the call {receipt} is not here")
            mix.append(Member(release, member.weight_ppb))
        return _Due(call, signed, tuple(mix))

    def _state(self, due: _Due) -> SignedStatement:
        private = self._opened(due.call)
        scored = self._scores(due, private)
        made = receipts.make_statement(
            self.gateway.domain,
            due.signed,
            self.precision,
            scored.members,
            self._roles(due.mix),
            self.gateway.private_key,
        )
        row = calls.Statement(
            receipt=due.call.id,
            digest=digest_typed(self.gateway.domain, made.statement),
            record=encode(made),
            created_at=self.clock(),
            vectors=self._for_payer(due.call, encode(scored.vectors)),
        )
        with self.database.transaction() as transaction:
            if calls.state(transaction, row) and private is not None:
                sealed = self._for_payer(due.call, encode(private))
                calls.hand_over(transaction, due.call.id, sealed)
        return made

    def _opened(self, call: calls.Call) -> Private | None:
        if call.private is None:
            return None
        return decode(self.sealer.unseal(call.id, call.private), Private)

    def _for_payer(self, call: calls.Call, content: bytes) -> bytes:
        with self.database.read() as transaction:
            row = balances.voucher(transaction, call.gateway, call.payer)
        if row is None:
            raise VerificationError(f"the voucher of {call.payer}, who paid {call.id}, is gone")
        signed = SignedVoucher(decode(row.channel, Channel), row.limit, row.signature)
        key = payer_key(self.gateway.domain, self.token, signed)
        return seal_to(key, call.id, content)

    def _scores(self, due: _Due, private: Private | None) -> _Scored:
        mix = due.signed.body.mix
        reasons = [receipts.why_unscored(due.signed, member) for member in mix]
        if not _asks_models(reasons):
            unscored = tuple(
                MemberScores(member.release, member.weight_ppb, 0, reason, ())
                for member, reason in zip(mix, reasons, strict=True)
            )
            return _Scored(unscored, Vectors(((),) * len(mix)))
        if private is None:
            raise VerificationError(f"prompt and answer of {due.call.id} are erased")
        is_audited = due.signed.body.attribution == "audited"
        scorer = self.scorer_of(due.mix, is_audited=is_audited)
        found = scorer.attribute(private.prompt_ids(), private.answer_ids())
        members = tuple(
            scores.of(member.release, member.weight_ppb)
            for member, scores in zip(mix, found, strict=True)
        )
        return _Scored(members, Vectors(tuple(scores.vectors for scores in found)))

    def _roles(self, mix: Sequence[Member]) -> Roles:
        parents = tuple(stored_parents(member.release.parents) for member in mix)
        return Roles(
            commons=self.commons,
            platform=self.platform,
            builders=tuple(member.release.builder for member in mix),
            node=self.gateway.account,
            parent=parents if any(parents) else None,
        )


def _asks_models(reasons: Sequence[Unscored | None]) -> bool:
    """Whether something is owed to data, or builders divide by what their releases added."""
    is_divided = len(reasons) > 1 and set(reasons) == {Unscored.NO_MANIFEST}
    return None in reasons or is_divided
