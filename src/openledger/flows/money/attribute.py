"""After the answer: whose data made it, signed; off the token path, on the worker.

A statement is made once. Running it again finds the one that is stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from openledger.core.encoding import decode, encode
from openledger.core.errors import VerificationError
from openledger.core.signing import digest_typed
from openledger.core.types import PARTS_PER_BILLION, Account, Digest, ReceiptId
from openledger.settlement.parts import Roles
from openledger.settlement.receipt import (
    Gateway,
    MemberScores,
    Private,
    SignedCall,
    SignedStatement,
    make_statement,
)
from openledger.settlement.shares import ClusterScore, Gain
from openledger.storage.database import Database
from openledger.storage.records.model import releases
from openledger.storage.records.money import calls
from openledger.storage.vault import Sealer

_NO_QUERY = Digest("0" * 64)


class Scores(Protocol):
    """The integers of one answer, as `attribution.attribute` gives them."""

    @property
    def gain(self) -> Gain: ...
    @property
    def query(self) -> Digest: ...
    @property
    def clusters(self) -> tuple[ClusterScore, ...]: ...
    @property
    def losses_micronats(self) -> tuple[int, ...] | msgspec.UnsetType: ...


class Scorer(Protocol):
    """One release, ready to score answers."""

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int], *, is_audited: bool
    ) -> Scores: ...


@dataclass(frozen=True)
class Attribute:
    """Makes attribution statements for one gateway."""

    database: Database
    gateway: Gateway
    sealer: Sealer
    scorer_of: Callable[[releases.Release], Scorer]
    commons: Account
    platform: Account
    clock: Callable[[], int]

    def run(self, receipt: ReceiptId) -> SignedStatement:
        """Attribute one call, or return its statement.

        Raises:
            NotFoundError: no such receipt.
            VerificationError: what was kept of the call is gone or altered.
        """
        with self.database.read() as transaction:
            known = calls.statement(transaction, receipt)
            if known is not None:
                return decode(known.record, SignedStatement)
            call = calls.get(transaction, receipt)
            release = releases.get(transaction, call.release)
        signed = decode(call.record, SignedCall)
        made = make_statement(
            self.gateway.domain,
            signed,
            (self._scores(call, signed, release),),
            self._roles(release),
            self.gateway.private_key,
        )
        row = calls.Statement(
            receipt=receipt,
            digest=digest_typed(self.gateway.domain, made.statement),
            record=encode(made),
            created_at=self.clock(),
        )
        with self.database.transaction() as transaction:
            calls.state(transaction, row)
        return made

    def _scores(
        self, call: calls.Call, signed: SignedCall, release: releases.Release
    ) -> MemberScores:
        assert release.number is not None, "only published releases are served"
        if call.fee == 0:
            # Nothing is owed for a free call, so nobody's influence is worth measuring.
            nothing = Gain(0, 0, PARTS_PER_BILLION)
            return MemberScores(release.number, PARTS_PER_BILLION, nothing, _NO_QUERY, ())
        if call.private is None:
            raise VerificationError(f"prompt and answer of {call.id} are erased")
        private = decode(self.sealer.unseal(call.id, call.private), Private)
        scores = self.scorer_of(release).attribute(
            private.prompt_ids(),
            private.answer_ids(),
            is_audited=signed.body.attribution == "audited",
        )
        return MemberScores(
            release=release.number,
            weight_ppb=PARTS_PER_BILLION,
            gain=scores.gain,
            query=scores.query,
            clusters=scores.clusters,
            losses_micronats=scores.losses_micronats,
        )

    def _roles(self, release: releases.Release) -> Roles:
        return Roles(
            commons=self.commons,
            platform=self.platform,
            builder=release.builder,
            node=self.gateway.account,
        )
