"""Beside a payment, for the parties of a call: which documents made the answer, and which match it.

Two things that people confuse stand side by side. Influence is what is paid by; a passage that the
answer and a document share is matching text and pays nobody. Where they disagree, it is said.
Texts and rows come from the vault when somebody asks, so that what was withdrawn is not there.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

import msgspec
import structlog

from openledger.attribution.evidence.index import Answers, Asked, Codes, DocumentIndex
from openledger.attribution.evidence.shown import (
    DocumentEvidence,
    Evidence,
    Passage,
    SpanEvidence,
)
from openledger.attribution.evidence.spans import Passages, Span
from openledger.attribution.evidence.store import (
    EvidenceManifest,
    EvidencePart,
    object_of,
    read_manifest,
    unpack_all,
)
from openledger.core.encoding import decode
from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
)
from openledger.core.types import PARTS_PER_BILLION, Account, ReceiptId
from openledger.datanet.chunk import text_digest
from openledger.datanet.display import may_be_shown
from openledger.lm.stream import Detokenizer
from openledger.lm.tokenizer import Tokenizer
from openledger.settlement.price import MixMember
from openledger.settlement.receipt import Private, SignedCall, read_statement
from openledger.settlement.shares import ClusterScore, MemberScores, combine
from openledger.storage.database import Database, Transaction
from openledger.storage.records.data import contributions, texts
from openledger.storage.records.data.contributions import Contribution, ContributionState
from openledger.storage.records.model import releases
from openledger.storage.records.money import calls
from openledger.storage.vault import Vault

log = structlog.get_logger()

MOST_DOCUMENTS = 10
_ROWS_LOOKED_AT = 200
BASIS = "Documents stand by their influence on the answer; what is paid follows from influence."
MATCHING = "Passages are matching text, not the basis of payment."
_NO_PASSAGE = (
    "No rare passage of six or more words of this answer stands in the training texts; "
    "influence does not need one."
)
_AGREE = "Every passage stands in a document with influence on the answer, too."
_NONE_BOTH = (
    "Passages and influence disagree: none of the documents with influence holds a passage, and "
    "those that hold one have no measured influence."
)
_SOME = "Passages and influence disagree: {count} of {all} stand only in documents without it."


class _Document(msgspec.Struct, frozen=True):
    contribution: int
    account: Account
    title: str
    licence: str
    text: str


class _Library(msgspec.Struct, frozen=True):
    """A release's texts and rows, opened."""

    documents: dict[int, _Document]
    index: DocumentIndex
    passages: Passages
    model: Answers


class _Influence(msgspec.Struct, frozen=True):
    shares: Mapping[int, int]  # by document, of what is paid
    strengths: Mapping[int, int]  # by document, of the strongest's

    def has(self, document: int) -> bool:
        return document in self.shares or document in self.strengths


class ShowEvidence:
    """Opens what a release keeps, for one answer at a time."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        open_private: Callable[[calls.Call], Private],
        tokenizer: Tokenizer,
        model_of: Callable[[releases.Release], Answers],
        home: Path,
    ) -> None:
        self._database = database
        self._vault = vault
        self._open_private = open_private
        self._tokenizer = tokenizer
        self._model_of = model_of
        self._home = home
        self._opened: tuple[object, _Library] | None = None  # the last one, by what it holds
        self._lock = Lock()

    def run(self, receipt: ReceiptId, asker: Account, member: str | None = None) -> Evidence:
        """The evidence of one call, for its payer or its gateway.

        Args:
            receipt: of the call.
            asker: who wants to see it.
            member: of a mix, the release whose documents are shown, as the receipt names it.

        Raises:
            NotFoundError: no such receipt, or a release from before evidence was kept.
            InvalidInputError: several releases answered, and none of them is named.
            NotAllowedError: somebody else asks.
            ConflictError: the attribution is not done yet, or prompt and answer are erased.
        """
        with self._database.read() as transaction:
            call = calls.get(transaction, receipt)
            said = calls.statement(transaction, receipt)
            number = _member(decode(call.record, SignedCall).body.mix, member)
            release = releases.by_number(transaction, number)
        if asker not in (call.payer, call.gateway):
            raise NotAllowedError(f"the evidence of {receipt} is for its payer and its gateway")
        assert release is not None, "the releases of this home's receipts are its own"
        if said is None:
            raise ConflictError("the attribution is not done yet; ask again in a moment")
        private = self._open_private(call)
        log.info("evidence opened", receipt=receipt, asker=asker)
        with self._lock:
            library, withdrawn = self._library(release)
            statement = read_statement(said.record)
            influence = _influence(
                shares_of_documents(statement.body.members, release.number),
                library,
                Asked(tuple(private.prompt_ids()), tuple(private.answer_ids())),
            )
        answer = _Answer(self._tokenizer, private.answer_ids())
        return _evidence(receipt, answer, library, influence, withdrawn)

    def _library(self, release: releases.Release) -> tuple[_Library, int]:
        manifest = read_manifest(self._home / release.folder)
        if manifest is None:
            raise NotFoundError(
                f"{release.full_name} has no evidence: it came without its training data, or was "
                "trained before evidence was kept; train it again"
            )
        with self._database.read() as transaction:
            found = [
                (part, contributions.by_number(transaction, part.contribution))
                for part in manifest.parts
            ]
            held = [
                (part, owner)
                for part, owner in found
                if owner is not None and owner.state is ContributionState.APPROVED
            ]
            key = (release.id, [owner.id for _, owner in held])
            if self._opened is None or self._opened[0] != key:
                self._opened = None  # at most one in memory
                library = self._open(transaction, release, manifest, held)
                self._opened = (key, library)
        return self._opened[1], len(found) - len(held)

    def _open(
        self,
        transaction: Transaction,
        release: releases.Release,
        manifest: EvidenceManifest,
        held: Sequence[tuple[EvidencePart, Contribution]],
    ) -> _Library:
        documents: dict[int, _Document] = {}
        rows = []
        for part, owner in held:
            name = object_of(owner.id, manifest.adapter)
            rows.append(self._vault.get(transaction, owner.id, name, part.blob))
            documents |= self._documents(transaction, part, owner)
        numbers = tuple(number for part, _ in held for number in part.documents)
        codes = Codes(manifest.width, manifest.places, unpack_all(rows, len(numbers)), numbers)
        return _Library(
            documents=documents,
            index=DocumentIndex(manifest.seed, codes),
            passages=Passages({number: one.text for number, one in documents.items()}),
            model=self._model_of(release),
        )

    def _documents(
        self, transaction: Transaction, part: EvidencePart, owner: Contribution
    ) -> dict[int, _Document]:
        """Those that were trained on; what was held out taught the model nothing."""
        pieces: dict[int, list[str]] = {}
        for chunk in texts.chunks_of(transaction, owner.id):
            number = part.first + chunk.document
            if number in part.documents:
                name = texts.chunk_object(owner.id, chunk.position)
                text = self._vault.get(transaction, owner.id, name, chunk.blob).decode()
                pieces.setdefault(number, []).append(text)
        rows = texts.documents_of(transaction, owner.id)
        return {
            number: _Document(
                contribution=part.contribution,
                account=owner.contributor,
                title=rows[number - part.first].title,
                licence=rows[number - part.first].licence,
                text="\n".join(some),
            )
            for number, some in pieces.items()
        }


def shares_of_documents(members: Sequence[MemberScores], release: int | None) -> dict[int, int]:
    """What each document of a release earned by a statement, in parts per billion of the answer.

    It is the arithmetic of the shares with every document as an account of its own, so that an
    account's documents sum to what it was paid.
    """
    replace = msgspec.structs.replace
    alone = []
    for member in members:
        segments = member.segments if member.release == release else ()
        relabelled = [
            replace(one, clusters=tuple(map(_each_its_own, one.clusters))) for one in segments
        ]
        alone.append(replace(member, segments=tuple(relabelled)))
    return {int(share.account, 16): share.weight_ppb for share in combine(alone).shares}


def _member(mix: Sequence[MixMember], name: str | None) -> int:
    if name is None and len(mix) == 1:
        return mix[0].release
    found = next((one.release for one in mix if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in mix)
        raise InvalidInputError(f"whose documents? Name the release as the receipt does: {names}")
    return found


class _Answer:
    """An answer's text, and which of its tokens wrote which characters."""

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int]) -> None:
        stream = Detokenizer(tokenizer)
        pieces = [stream.push(token) for token in ids]
        self.text = "".join([*pieces, stream.finish()])
        self._tokens = [place for place, piece in enumerate(pieces) for _ in piece]
        # Bytes that never became a character are the last token's.
        self._tokens += [len(pieces) - 1] * (len(self.text) - len(self._tokens))

    def tokens(self, start: int, end: int) -> tuple[int, int]:
        """The first token of these characters, and the one past the last."""
        return self._tokens[start], self._tokens[end - 1] + 1


def _each_its_own(cluster: ClusterScore) -> ClusterScore:
    replace = msgspec.structs.replace
    documents = tuple(
        replace(one, account=Account(f"0x{one.document:040x}")) for one in cluster.documents
    )
    return replace(cluster, documents=documents)


def _influence(paid: Mapping[int, int], library: _Library, asked: Asked) -> _Influence:
    found = library.index.search_answer(library.model, asked, _ROWS_LOOKED_AT)
    positive = [one for one in found if one.score > 0]
    strengths = {
        one.document: round(PARTS_PER_BILLION * one.score / positive[0].score) for one in positive
    }
    return _Influence({d: p for d, p in paid.items() if d in library.documents}, strengths)


def _evidence(
    receipt: ReceiptId, answer: _Answer, library: _Library, influence: _Influence, withdrawn: int
) -> Evidence:
    spans = library.passages.find(answer.text)
    ranked = sorted(
        {*influence.shares, *influence.strengths},
        key=lambda d: (-influence.shares.get(d, 0), -influence.strengths.get(d, 0), d),
    )
    shown = dict.fromkeys(ranked[:MOST_DOCUMENTS])
    shown |= dict.fromkeys(place.document for span in spans for place in span.places)
    verdict = _verdict(spans, influence)
    return Evidence(
        receipt=receipt,
        answer=answer.text,
        basis=BASIS,
        matching=MATCHING,
        verdict=verdict,
        is_disagreeing=verdict not in (_AGREE, _NO_PASSAGE),
        documents=tuple(_document(n, library.documents[n], influence, spans) for n in shown),
        spans=tuple(_span(span, answer) for span in spans),
        withdrawn=withdrawn,
    )


def _document(
    number: int, document: _Document, influence: _Influence, spans: Sequence[Span]
) -> DocumentEvidence:
    return DocumentEvidence(
        document=number,
        contribution=document.contribution,
        account=document.account,
        title=document.title,
        licence=document.licence,
        digest=text_digest(document.text),
        text=document.text if may_be_shown(document.licence) else None,
        share_ppb=influence.shares.get(number, 0),
        strength_ppb=influence.strengths.get(number, 0),
        passages=tuple(
            Passage(which, place.start, place.end)
            for which, span in enumerate(spans)
            for place in span.places
            if place.document == number
        ),
    )


def _span(span: Span, answer: _Answer) -> SpanEvidence:
    first, end = answer.tokens(span.start, span.end)
    return SpanEvidence(
        start=span.start,
        end=span.end,
        first_token=first,
        end_token=end,
        text=answer.text[span.start : span.end],
        words=span.words,
        documents=tuple(place.document for place in span.places),
        holders=span.documents,
    )


def _verdict(spans: Sequence[Span], influence: _Influence) -> str:
    if not spans:
        return _NO_PASSAGE
    without = [s for s in spans if not any(influence.has(place.document) for place in s.places)]
    if not without:
        return _AGREE
    if len(without) == len(spans):
        return _NONE_BOTH
    return _SOME.format(count=len(without), all=len(spans))
