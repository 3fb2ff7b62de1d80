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
from openledger.settlement.voucher import Channel, SignedVoucher, payer_key
from openledger.storage.database import Database
from openledger.storage.private.envelope import seal_to
from openledger.storage.records.model import releases
from openledger.storage.records.money import balances, calls
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
    def vector(self) -> str: ...


class Vectors(msgspec.Struct, frozen=True):
    """The query vectors of a statement's members, in base64; what `full` bundles open."""

    queries: tuple[str, ...]


class _Scored(msgspec.Struct, frozen=True):
    member: MemberScores
    vector: str


class Scorer(Protocol):
    """One release, ready to score answers."""

    def attribute(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Scores: ...


@dataclass(frozen=True)
class Attribute:
    """Makes attribution statements for one gateway."""

    database: Database
    gateway: Gateway
    sealer: Sealer
    scorer_of: Callable[[releases.Release], Scorer]
    token: Account  # of vouchers
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
        private = self._opened(call)
        scored = self._scores(call, release, private)
        made = make_statement(
            self.gateway.domain,
            signed,
            (scored.member,),
            self._roles(release),
            self.gateway.private_key,
        )
        row = calls.Statement(
            receipt=receipt,
            digest=digest_typed(self.gateway.domain, made.statement),
            record=encode(made),
            created_at=self.clock(),
            vectors=self._for_payer(call, encode(Vectors((scored.vector,)))),
        )
        with self.database.transaction() as transaction:
            if calls.state(transaction, row) and private is not None:
                sealed = self._for_payer(call, encode(private))
                calls.hand_over(transaction, receipt, sealed)
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

    def _scores(
        self, call: calls.Call, release: releases.Release, private: Private | None
    ) -> "_Scored":
        assert release.number is not None, "only published releases are served"
        if call.fee == 0:
            # Nothing is owed for a free call, so nobody's influence is worth measuring.
            nothing = Gain(0, 0, PARTS_PER_BILLION)
            free = MemberScores(release.number, PARTS_PER_BILLION, nothing, _NO_QUERY, ())
            return _Scored(free, "")
        if private is None:
            raise VerificationError(f"prompt and answer of {call.id} are erased")
        scores = self.scorer_of(release).attribute(private.prompt_ids(), private.answer_ids())
        member = MemberScores(
            release.number, PARTS_PER_BILLION, scores.gain, scores.query, scores.clusters
        )
        return _Scored(member, scores.vector)

    def _roles(self, release: releases.Release) -> Roles:
        return Roles(
            commons=self.commons,
            platform=self.platform,
            builder=release.builder,
            node=self.gateway.account,
        )
