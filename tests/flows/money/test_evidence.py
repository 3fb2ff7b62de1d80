"""The evidence of a paid call, from a tiny model that was really trained."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from openledger.attribution.evidence.shown import Evidence
from openledger.attribution.evidence.store import MANIFEST
from openledger.attribution.method import CAP_PPB
from openledger.core.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from openledger.core.types import PARTS_PER_BILLION, Account, Digest, ReceiptId
from openledger.flows.money.evidence import MATCHING, shares_of_documents
from openledger.operations.models import NewRelease, NewRun, RecipeChoice, WhichRelease
from openledger.operations.receipts import WhichEvidence
from openledger.settlement.shares import (
    ClusterScore,
    DocumentScore,
    Gain,
    MemberScores,
    Segment,
    combine,
)
from openledger.storage.records.data import contributions
from openledger.storage.records.data.contributions import ContributionState
from openledger.storage.tables import documents
from openledger.web.operations import models, receipts
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform, now_us
from tests import market as fair

pytestmark = pytest.mark.slow

MODEL = "openledger/evident"
PROMPT_CHARACTERS = 30


@pytest.fixture(scope="module")
def trained_home(market_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("evident") / "home"
    with fair.open_copy(market_home, home) as platform:
        # The market's own release has no real adapter, and the engine would say so at length.
        models.deprecate(platform, WhichRelease(fair.MODEL))
        choice = RecipeChoice(epochs=12, scored_tunes=0)
        models.start(platform, NewRun((fair.DATANET,), "evident", "evident", choice=choice))
        worker_of(platform).drain()
        models.publish(platform, NewRelease("evident", MODEL))
    return home


@pytest.fixture
def trained(trained_home: Path, tmp_path: Path) -> Iterator[Platform]:
    with fair.open_copy(trained_home, tmp_path / "home") as platform:
        yield platform


def trained_on(platform: Platform) -> tuple[str, str]:
    """Title and text of a tune that the model was trained on; others are held out, by the seed."""
    titles = trained_titles(platform)
    return max(
        ((title, text) for title, text in fair.tunes(platform).items() if title in titles),
        key=lambda tune: len(tune[1]),
    )


def answered(platform: Platform, prompt: str, answer: str) -> ReceiptId:
    return fair.answered(platform, MODEL, prompt, answer)


def shown(platform: Platform, receipt: ReceiptId) -> Evidence:
    return platform.models.show_evidence.run(receipt, fair.payer(platform).address)


def test_an_answer_is_linked_both_ways_with_the_text_that_it_repeats(trained: Platform) -> None:
    title, text = trained_on(trained)
    answer = text[PROMPT_CHARACTERS:]
    receipt = answered(trained, text[:PROMPT_CHARACTERS], answer)
    found = shown(trained, receipt)
    source = found.documents[0]
    [span] = found.spans

    assert (source.title, source.text) == (title, text)
    assert source.strength_ppb == PARTS_PER_BILLION
    assert found.answer == answer
    assert span.documents == (source.document,)
    [passage] = source.passages
    assert text[passage.start : passage.end] == answer[span.start : span.end] == span.text
    ids = trained.models.desk.tokenizer.encode(answer)[span.first_token : span.end_token]
    assert span.text in trained.models.desk.tokenizer.decode(ids)
    assert found.matching == MATCHING
    assert not found.is_disagreeing
    view = receipts.show_evidence(trained, WhichEvidence(receipt, f"{MODEL}@1"))
    with pytest.raises(InvalidInputError, match=f"Name the release as the receipt does: {MODEL}@1"):
        receipts.show_evidence(trained, WhichEvidence(receipt, f"{MODEL}@2"))
    assert view.documents[0].contributor in {
        one.contributor.display_name for one in fair.tune_submissions(trained)
    }


scores = st.integers(-50, 100)


@given(
    st.lists(st.lists(scores, min_size=1, max_size=4), max_size=5),
    st.lists(st.tuples(st.integers(1, 128), st.integers(-5, 900)), min_size=1, max_size=3),
    st.integers(-5, 900),
)
def test_what_documents_earned_is_what_their_contributors_did(
    clusters: list[list[int]], segments: list[tuple[int, int]], other: int
) -> None:
    numbers = itertools.count()
    made = tuple(
        ClusterScore(
            place,
            sum(some),
            10,
            tuple(DocumentScore(n := next(numbers), account(n % 3), score) for score in some)
            if sum(some) > 10
            else (),
        )
        for place, some in enumerate(clusters)
    )
    scored = tuple(
        Segment(tokens, Gain(gain, 1_000, CAP_PPB, 1), Digest("0" * 64), made)
        for tokens, gain in segments
    )
    # Of the other release in the mix the documents have the same numbers, and other owners.
    foreign = tuple(
        msgspec.structs.replace(
            cluster,
            documents=tuple(
                msgspec.structs.replace(one, account=account(9)) for one in cluster.documents
            ),
        )
        for cluster in made
    )
    members = (
        MemberScores(4, PARTS_PER_BILLION // 2, 300, None, scored),
        MemberScores(
            6,
            PARTS_PER_BILLION // 2,
            other,
            None,
            tuple(msgspec.structs.replace(one, clusters=foreign) for one in scored),
        ),
    )
    stated = {share.account: share.weight_ppb for share in combine(members).shares}
    stated.pop(account(9), None)
    earned: dict[Account, int] = {}
    for document, part in shares_of_documents(members, 4).items():
        owner = account(document % 3)
        earned[owner] = earned.get(owner, 0) + part

    assert earned == stated
    assert shares_of_documents(members, 5) == {}


def account(number: int) -> Account:
    return Account(f"0x{number + 1:040x}")


def test_a_text_that_may_not_be_passed_on_is_a_digest(trained: Platform) -> None:
    _, text = trained_on(trained)
    receipt = answered(trained, text[:PROMPT_CHARACTERS], text[PROMPT_CHARACTERS:])
    open_text = shown(trained, receipt).documents[0]
    with trained.database.transaction() as transaction:
        transaction.connection.execute(update(documents).values(licence="LicenseRef-mine"))
    trained.models.show_evidence._opened = None
    found = shown(trained, receipt)

    assert all(one.text is None for one in found.documents)
    assert found.documents[0].digest == open_text.digest
    assert found.spans[0].text in text


def test_what_was_withdrawn_is_not_shown(trained: Platform) -> None:
    _, text = trained_on(trained)
    receipt = answered(trained, text[:PROMPT_CHARACTERS], text[PROMPT_CHARACTERS:])
    before = shown(trained, receipt)
    with trained.database.transaction() as transaction:
        owner = contributions.by_number(transaction, before.documents[0].contribution)
        assert owner is not None
        now = now_us()
        contributions.advance(transaction, owner.id, ContributionState.WITHDRAWN, now)
        trained.vault.destroy_key(transaction, owner.id, now)
    after = shown(trained, receipt)

    assert (before.withdrawn, after.withdrawn) == (0, 1)
    assert owner.number not in {one.contribution for one in after.documents}
    assert not after.spans


def test_passages_without_influence_are_said_to_disagree(trained: Platform) -> None:
    held_out = next(title for title in fair.tunes(trained) if title not in trained_titles(trained))
    text = fair.tunes(trained)[held_out]
    receipt = answered(trained, "X:1\n", text)
    found = shown(trained, receipt)

    assert held_out not in {one.title for one in found.documents}, "nobody was taught by it"
    assert "influence" in found.verdict


def trained_titles(platform: Platform) -> set[str]:
    receipt = answered(platform, "X:1\n", "T:Any\n")
    platform.models.show_evidence.run(receipt, fair.payer(platform).address)
    opened = platform.models.show_evidence._opened
    assert opened is not None
    return {one.title for one in opened[1].documents.values()}


@pytest.mark.parametrize("answer", ["", "X", "\ufffd\u202e\x00 \U0001f3b5" * 7])
def test_an_answer_that_says_nothing_known_has_no_passages(trained: Platform, answer: str) -> None:
    found = shown(trained, answered(trained, "X:1\n", answer))

    assert found.spans == ()
    assert found.answer == answer
    assert not found.is_disagreeing


def test_only_the_parties_of_a_call_see_its_evidence(trained: Platform) -> None:
    receipt = answered(trained, "X:1\n", "T:Any\n")
    stranger = fair.contributors(trained)[0]

    with pytest.raises(NotAllowedError, match="for its payer and its gateway"):
        trained.models.show_evidence.run(receipt, stranger)


def test_erased_or_pending_calls_and_old_releases_are_told_apart(trained: Platform) -> None:
    receipt = answered(trained, "X:1\n", "T:Any\n")
    with trained.database.read() as transaction:
        [folder] = transaction.connection.exec_driver_sql(
            "SELECT folder FROM releases WHERE name = 'evident'"
        ).scalars()
    kept = trained.home.root / folder / MANIFEST
    raw = kept.read_bytes()
    kept.unlink()
    with pytest.raises(NotFoundError, match="before evidence was kept"):
        shown(trained, receipt)
    kept.write_bytes(raw)
    with trained.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE call_receipts SET private = NULL")
    with pytest.raises(ConflictError, match="erased"):
        shown(trained, receipt)
    with trained.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM statements")
    with pytest.raises(ConflictError, match="not done yet"):
        shown(trained, receipt)


def test_rows_of_a_release_rest_sealed(trained: Platform) -> None:
    stored = [path for path in trained.home.blobs.rglob("*") if path.is_file()]

    assert stored
    assert all(path.read_bytes().startswith(b"OLV1") for path in stored)
