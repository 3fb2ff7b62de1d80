from base64 import b64decode
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from openledger.attribution import attribute
from openledger.attribution.attribute import AnswerAttribution, Attributor
from openledger.attribution.card.panel import losses_of
from openledger.attribution.influence.gradients import (
    Batch,
    Checkpoints,
    ProbedModel,
    label_gradients,
    log_chances,
)
from openledger.attribution.influence.rows import dots, quantise_query
from openledger.attribution.method import (
    CAP_PPB,
    LONGEST_SEQUENCE,
    MOST_CLUSTERS,
    SIGNATURE_TOKENS,
)
from openledger.attribution.release import TrainingExample, build
from openledger.attribution.scoring import Scoring
from openledger.attribution.state import (
    AttributionState,
    ClusterEntry,
    DocumentEntry,
    digest_of_row,
    load_state,
)
from openledger.core.encoding import encode
from openledger.core.errors import DigestMismatchError, InvalidInputError
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraPair
from openledger.settlement.shares import (
    PLACEBO_MICRONATS_PER_TOKEN,
    Gain,
    Unscored,
    data_share_ppb,
    segment_lengths,
)
from tests.attribution.releases import (
    RECIPE,
    account,
    alone,
    examples_of,
    some_adapter,
    some_text,
    trained_adapter,
)

TEXTS = tuple(some_text(i, words=10) for i in range(8))


@pytest.fixture(scope="module")
def models(base: BaseModel) -> Checkpoints:
    rows = base.tokenizer.encode_documents(TEXTS)
    early, final = (ProbedModel(base, trained_adapter(base, rows, epochs)) for epochs in (6, 25))
    return Checkpoints(early, final)


@pytest.fixture(scope="module")
def trained(models: Checkpoints) -> ProbedModel:
    return models.final


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, base: BaseModel, models: Checkpoints) -> Path:
    """Eight documents of three accounts, on which the adapter was trained."""
    folder = tmp_path_factory.mktemp("releases") / "state"
    build(folder, models, examples_of(base, TEXTS, [i % 3 for i in range(8)]), RECIPE)
    return folder


@pytest.fixture
def paying(release: Path, models: Checkpoints) -> Attributor:
    return Attributor(load_state(release), models)


def run(attributor: Attributor, base: BaseModel, text: str, prompt: int = 12) -> AnswerAttribution:
    ids = base.tokenizer.encode(text)
    return attributor.attribute(ids[:prompt], ids[prompt:])


def scores(found: AnswerAttribution) -> list[int]:
    """Of the clusters, for a short answer."""
    [segment] = found.segments
    return [cluster.score for cluster in segment.clusters]


def test_an_answer_out_of_a_document_pays_its_contributor_most(
    base: BaseModel, paying: Attributor
) -> None:
    for number, text in enumerate(TEXTS):
        found = run(paying, base, text)
        best = max(found.attribution.shares, key=lambda share: share.weight_ppb)

        assert found.segments[0].gain.over_base_micronats > 0
        assert max(found.segments[0].clusters, key=lambda cluster: cluster.score).cluster == number
        assert best.account == account(number % 3)


def test_shares_and_nobody_are_whole_and_follow_from_the_scores(
    base: BaseModel, paying: Attributor
) -> None:
    ids = base.tokenizer.encode(TEXTS[3])
    found = run(paying, base, TEXTS[3])
    shared = sum(share.weight_ppb for share in found.attribution.shares)

    assert shared + found.attribution.nobody_ppb == PARTS_PER_BILLION
    assert shared <= CAP_PPB
    assert [segment.tokens for segment in found.segments] == segment_lengths(len(ids) - 12)
    assert found.leave_one_out_micronats == found.segments[0].gain.over_base_micronats
    assert b"." not in encode(found)  # no float leaves the room


def test_the_same_answer_gives_the_same_integers(
    base: BaseModel, paying: Attributor, release: Path, models: Checkpoints
) -> None:
    again = Attributor(load_state(release), models)

    assert run(paying, base, TEXTS[2]) == run(again, base, TEXTS[2])


def test_floors_are_above_zero_and_only_paid_clusters_name_documents(
    base: BaseModel, paying: Attributor
) -> None:
    found = run(paying, base, TEXTS[5])

    assert all(cluster.floor > 0 for cluster in found.segments[0].clusters)
    for cluster in found.segments[0].clusters:
        assert bool(cluster.documents) == (cluster.score > cluster.floor)


def test_splitting_a_contributors_documents_among_accounts_changes_nothing(
    tmp_path: Path, base: BaseModel, models: Checkpoints, paying: Attributor
) -> None:
    """Whatever the split: at random, by topic, or harmful ones apart."""
    whole = run(paying, base, TEXTS[0])
    owners = [3 if i == 0 else 4 if i == 3 else i % 3 for i in range(8)]
    build(tmp_path / "split", models, examples_of(base, TEXTS, owners), RECIPE)
    split = run(Attributor(load_state(tmp_path / "split"), models), base, TEXTS[0])

    earned = {share.account: share.weight_ppb for share in split.attribution.shares}
    before = {share.account: share.weight_ppb for share in whole.attribution.shares}
    pieces = [earned.get(account(i), 0) for i in (0, 3, 4)]

    assert [c.score for c in split.segments[0].clusters] == [
        c.score for c in whole.segments[0].clusters
    ]
    assert sum(pieces) == before[account(0)]
    assert earned.get(account(1), 0) == before.get(account(1), 0)


def test_documents_of_one_cluster_sum_to_its_score(
    tmp_path: Path, base: BaseModel, models: Checkpoints
) -> None:
    texts = [*TEXTS, TEXTS[0] + " x"]
    build(tmp_path / "near", models, examples_of(base, texts, range(9)), RECIPE)
    found = run(Attributor(load_state(tmp_path / "near"), models), base, TEXTS[0])
    cluster = found.segments[0].clusters[0]

    assert [document.document for document in cluster.documents] == [0, 8]
    assert sum(document.score for document in cluster.documents) == cluster.score


def test_the_gain_is_the_capped_sum_over_the_answers_tokens(
    base: BaseModel, paying: Attributor, trained: ProbedModel
) -> None:
    ids = base.tokenizer.encode(TEXTS[1])
    batch = trained.batch([ids], [12])
    over = log_chances(trained, batch, trained.upper(batch)) - log_chances(
        trained, batch, trained.upper(batch, is_adapted=False)
    )
    placebo = PLACEBO_MICRONATS_PER_TOKEN / 1e6

    found = run(paying, base, TEXTS[1])

    assert over.max() > 3  # so that the cap matters here
    wanted = float((over.clamp(max=3) - placebo).sum())
    assert found.segments[0].tokens == len(ids) - 12 == len(over)
    assert found.segments[0].gain.over_base_micronats == pytest.approx(
        wanted * 1e6, abs=len(over) + 10
    )


def test_integer_scores_agree_with_exact_influence(
    base: BaseModel, paying: Attributor, models: Checkpoints, release: Path
) -> None:
    state = load_state(release)
    rows = base.tokenizer.encode_documents(TEXTS)
    ids = base.tokenizer.encode(TEXTS[4])
    exact = torch.zeros(len(rows))
    for model in models.both:
        found = [torch.cat(_features(state, model, row, 1), 1) for row in rows]
        stored = torch.cat([one * (len(row) - 1) for one, row in zip(found, rows, strict=True)])
        others = (stored @ stored.T).fill_diagonal_(0).abs().mean()
        exact += stored @ torch.cat(_features(state, model, ids, 12), 1)[0] / others

    scores = torch.tensor(
        [cluster.score for cluster in run(paying, base, TEXTS[4]).segments[0].clusters]
    )
    both = torch.stack([scores.double(), exact.double()])

    assert float(torch.corrcoef(both)[0, 1]) > 0.98


def test_influence_is_told_of_answers_that_nothing_is_owed_for_too(
    base: BaseModel, paying: Attributor
) -> None:
    owed = base.tokenizer.encode(TEXTS[0])
    unowed = base.tokenizer.encode("Zq%! 77 ~~ @@ zzz QQ WW PP 123 456 &&&&")

    assert (
        paying.influence(owed[:6], owed[6:])
        == paying.attribute(owed[:6], owed[6:]).segments[0].clusters
    )
    assert any(cluster.score for cluster in paying.influence(unowed[:3], unowed[3:]))
    assert paying.influence([5], []) == ()


def test_an_answer_of_no_token_pays_nobody(base: BaseModel, paying: Attributor) -> None:
    found = paying.attribute(base.tokenizer.encode("X:1"), [])
    bare = paying.attribute([], [5])

    assert found.unscored is bare.unscored is Unscored.NO_ANSWER
    assert (found.segments, bare.segments) == ((), ())
    assert found.attribution.nobody_ppb == bare.attribution.nobody_ppb == PARTS_PER_BILLION


def test_an_answer_of_one_token_is_attributed(base: BaseModel, paying: Attributor) -> None:
    ids = base.tokenizer.encode(TEXTS[0])
    found = [paying.attribute(ids[:cut], ids[cut : cut + 1]) for cut in range(5, 25)]

    assert {one.segments[0].tokens for one in found} == {1}
    assert any(one.attribution.shares for one in found)


Lasting = tuple[Attributor, AttributionState, Checkpoints, list[int]]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Lasting:
    """A release that learnt two long documents, and the tokens of the first."""
    texts = [f"{some_text(i, words=5)} " * 14 for i in (20, 21)]
    rows = base.tokenizer.encode_documents(texts)
    early, final = (ProbedModel(base, trained_adapter(base, rows, epochs)) for epochs in (6, 25))
    models = Checkpoints(early, final)
    folder = tmp_path_factory.mktemp("releases") / "lasting"
    state = build(folder, models, examples_of(base, texts, [0, 1]), RECIPE)
    return Attributor(state, models), state, models, base.tokenizer.encode(texts[0])


def test_each_segment_of_a_long_answer_is_scored_as_if_it_alone_were_asked_about(
    lasting: Lasting,
) -> None:
    """Against the plain form: one sequence a segment, which ends where the segment ends."""
    attributor, state, models, ids = lasting
    commitment = state.manifest.commitment
    found = attributor.attribute(ids[:10], ids[10:])
    lengths = segment_lengths(len(ids) - 10)
    ends = [10 + end for end in accumulate(lengths)]

    assert len(lengths) > 1
    assert [segment.tokens for segment in found.segments] == lengths
    assert found.leave_one_out_micronats == sum(
        segment.gain.over_base_micronats for segment in found.segments
    )
    for segment, end, length in zip(found.segments, ends, lengths, strict=True):
        vector = [
            part
            for model in models.both
            for part in _features(state, model, ids[:end], end - length)
        ]
        query = quantise_query(torch.cat(vector, dim=1)[0], commitment.layout, commitment.scales)
        plain = dots(query[None], state.rows.clusters)[0]
        for cluster, score in zip(segment.clusters, plain, strict=True):
            assert cluster.score == pytest.approx(score, rel=1e-3, abs=1e-3 * max(map(abs, plain)))


class TwoJudges:
    """An auditor whose panel is the release's own two checkpoints; it doubles every score."""

    def __init__(self, models: Checkpoints) -> None:
        self._models = models.both

    def chances(self, batch: Batch) -> torch.Tensor:
        return torch.stack([log_chances(one, batch, one.upper(batch)) for one in self._models])

    def losses(self, batch: Batch, places: Sequence[slice]) -> list[tuple[int, ...] | None]:
        return [losses_of(self.chances(batch)[:, place]) for place in places]

    def corrected(self, scores: Sequence[int], losses_micronats: Sequence[int]) -> list[int]:
        assert len(losses_micronats) == 2
        return [2 * score for score in scores]


def test_each_segment_is_audited_by_the_losses_of_its_own_tokens(lasting: Lasting) -> None:
    attributor, state, models, ids = lasting
    plain = attributor.attribute(ids[:10], ids[10:])
    found = Attributor(state, models, TwoJudges(models)).attribute(ids[:10], ids[10:])
    judged = TwoJudges(models).chances(models.final.batch([ids], [10]))
    lengths = segment_lengths(len(ids) - 10)
    pieces = torch.split(judged, lengths, dim=1)

    assert len(lengths) > 1
    assert [one.losses_micronats for one in found.segments] == [losses_of(one) for one in pieces]
    for audited, influence in zip(found.segments, plain.segments, strict=True):
        assert (audited.gain, audited.query) == (influence.gain, influence.query)
        doubled = [2 * cluster.score for cluster in influence.clusters]
        assert [cluster.score for cluster in audited.clusters] == doubled


def test_a_segment_that_owes_nothing_makes_no_query_and_its_part_is_nobodys(
    base: BaseModel, lasting: Lasting
) -> None:
    attributor, _, _, ids = lasting
    noise = base.tokenizer.encode("Zq%! 77 ~~ @@ zzz QQ WW PP 123 456 &&&&" * 9)
    found = attributor.attribute(ids[:10], [*ids[10:138], *noise[:128]])
    first, second = found.segments

    assert (first.tokens, second.tokens) == (128, 128)
    assert data_share_ppb(first.gain) > 0
    assert first.clusters
    assert second.gain.over_base_micronats < 0
    assert second.clusters == ()
    paid = PARTS_PER_BILLION - found.attribution.nobody_ppb
    assert 0 < paid <= data_share_ppb(first.gain) // 2


def test_an_answer_without_gain_pays_nobody_and_makes_no_query(
    base: BaseModel, lasting: Lasting
) -> None:
    attributor, _, _, ids = lasting
    noise = base.tokenizer.encode("Zq%! 77 ~~ @@ zzz QQ WW PP 123 456 &&&&")
    found = attributor.attribute(ids[:10], noise)

    assert found.segments[0].gain.over_base_micronats < 0
    assert data_share_ppb(found.segments[0].gain) == 0
    assert found.segments[0].clusters == ()
    assert found.attribution.nobody_ppb == PARTS_PER_BILLION


def test_the_query_vector_of_each_segment_redoes_its_scores(
    base: BaseModel, lasting: Lasting
) -> None:
    """A segment that owes nothing has an empty one."""
    attributor, state, _, ids = lasting
    noise = base.tokenizer.encode("Zq%! 77 ~~ @@ zzz QQ WW PP 123 456 &&&&" * 9)
    found = attributor.attribute(ids[:10], [*ids[10:138], *noise[:128]])
    vectors = [np.frombuffer(b64decode(one), "<i2") for one in found.vectors]

    assert [digest_of_row(one) for one in vectors] == [one.query for one in found.segments]
    assert Scoring(state).score(vectors[0]) == found.segments[0].clusters
    assert found.vectors[1] == ""
    with pytest.raises(InvalidInputError, match="does not fit"):
        Scoring(state).score(vectors[0][:-1])


def _signed(lasting: Lasting, tokens: list[int]) -> Attributor:
    """The same release, to which every run of these tokens is a signature."""
    _, state, models, _ = lasting
    runs = [tokens[at : at + SIGNATURE_TOKENS] for at in range(len(tokens) - SIGNATURE_TOKENS + 1)]
    rows = msgspec.structs.replace(state.rows, signatures=np.array(runs, np.int32))
    return Attributor(msgspec.structs.replace(state, rows=rows), models)


def test_a_segment_of_nothing_but_signatures_owes_nothing(
    base: BaseModel, lasting: Lasting
) -> None:
    attributor, _, _, ids = lasting
    phrase = base.tokenizer.encode(some_text(33, words=60))[:128]
    answer = [*ids[10:138], *phrase]
    before, after = (
        one.attribute(ids[:10], answer) for one in (attributor, _signed(lasting, phrase))
    )

    assert before.segments[1].gain.over_null_micronats != 0
    assert after.segments[0] == before.segments[0]
    assert after.segments[1].tokens == 128
    assert after.segments[1].gain == Gain(0, 0, CAP_PPB, 0)
    assert after.segments[1].clusters == ()
    assert after.leave_one_out_micronats == after.segments[0].gain.over_base_micronats


def test_tokens_in_a_signature_have_no_gain_and_no_gradient(
    base: BaseModel, lasting: Lasting
) -> None:
    """Against the plain form: the same sequence, without a loss at these tokens."""
    _, state, models, ids = lasting
    phrase = base.tokenizer.encode(some_text(33, words=4))
    row, start = [*ids[:60], *phrase, *ids[60:80]], 10
    (found,) = _signed(lasting, phrase).attribute(row[:start], row[start:]).segments
    commitment, features, logs = state.manifest.commitment, [], []
    for model in models.both:
        batch = model.batch([row], [start])
        batch.weights[0, 59 : 59 + len(phrase)] = 0
        states = model.upper(batch, has_graph=True)
        mean = label_gradients(model, batch, states).true / batch.weights.sum()
        features += state.whitener.whiten(model.gradients(states, mean))
        plain = model.upper(batch, is_adapted=False)
        logs = [log_chances(model, batch, one) for one in (states.detach(), plain)]
    query = quantise_query(torch.cat(features, dim=1)[0], commitment.layout, commitment.scales)

    assert found.tokens == len(row) - start
    assert len(logs[0]) == found.tokens - len(phrase)
    assert found.gain.over_base_micronats == attribute.gain_of(*logs)
    scores = [cluster.score for cluster in found.clusters]
    assert scores == pytest.approx(dots(query[None], state.rows.clusters)[0], rel=1e-3)


def test_an_answer_of_nothing_but_a_signature_pays_nobody(lasting: Lasting) -> None:
    ids = lasting[-1]
    attributor = _signed(lasting, ids[:40])
    found = attributor.attribute(ids[:10], ids[10:40])

    assert found.unscored is None
    assert [one.gain for one in found.segments] == [Gain(0, 0, CAP_PPB, 0)]
    assert found.attribution.nobody_ppb == PARTS_PER_BILLION
    assert attributor.influence(ids[:10], ids[10:40]) == ()


def test_an_answer_goes_through_the_model_alone(lasting: Lasting) -> None:
    """So its integers do not depend on what was attributed before it."""
    attributor, _, _, ids = lasting
    before = attributor.attribute(ids[:10], ids[10:])
    attributor.attribute(ids[:3], ids[3:90])

    assert attributor.attribute(ids[:10], ids[10:]) == before


def test_an_answer_longer_than_the_method_sees_pays_nobody_for_the_rest(
    base: BaseModel, paying: Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [token for text in TEXTS for token in base.tokenizer.encode(text)]
    monkeypatch.setattr(attribute, "LONGEST_SEQUENCE", 130)
    found = paying.attribute(ids[:5], ids[5:300])

    assert [segment.tokens for segment in found.segments] == segment_lengths(295)
    assert found.segments[-1].gain.over_base_micronats == 0
    assert found.segments[-1].clusters == ()


def test_ten_thousand_contributors_share_an_answer(
    base: BaseModel, release: Path, models: Checkpoints
) -> None:
    """Each with one document, as many clusters as there may be; no part is lost, however small."""
    state = load_state(release)
    stream = np.random.Generator(np.random.Philox(key=1))
    width = state.rows.clusters.shape[1]
    rows = stream.integers(-20, 21, size=(10_000, width), dtype=np.int8)
    cluster_of = np.arange(10_000) % MOST_CLUSTERS
    clusters = np.zeros((MOST_CLUSTERS, width), np.int16)
    for start in range(0, len(rows), MOST_CLUSTERS):
        some = rows[start : start + MOST_CLUSTERS]
        clusters[: len(some)] += some
    unused = digest_of_row(rows[0])
    manifest = msgspec.structs.replace(
        state.manifest,
        documents=tuple(
            DocumentEntry(number, account(number), int(cluster), 1, unused, ())
            for number, cluster in enumerate(cluster_of)
        ),
        clusters=tuple(ClusterEntry(number, 1, unused) for number in range(MOST_CLUSTERS)),
    )
    many = msgspec.structs.replace(
        state,
        manifest=manifest,
        rows=msgspec.structs.replace(state.rows, clusters=clusters, documents=rows),
    )

    found = run(Attributor(many, models), base, TEXTS[0]).attribution

    assert len(found.shares) > 1_000
    assert sum(share.weight_ppb for share in found.shares) + found.nobody_ppb == PARTS_PER_BILLION


def test_without_a_prompt_the_first_token_has_no_gain(base: BaseModel, paying: Attributor) -> None:
    ids = base.tokenizer.encode(TEXTS[0])

    found = paying.attribute([], ids)
    with_first = paying.attribute(ids[:1], ids[1:])

    assert found.segments[0].tokens == len(ids)
    assert found.segments[0].gain == with_first.segments[0].gain
    assert found.segments[0].query == with_first.segments[0].query


def test_a_long_prompt_is_cut_from_its_start(
    base: BaseModel, paying: Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LONGEST_SEQUENCE >= 1_024
    monkeypatch.setattr(attribute, "LONGEST_SEQUENCE", 40)
    ids = base.tokenizer.encode(TEXTS[0])

    long = paying.attribute([7] * 300 + ids[:30], ids[30:40])
    short = paying.attribute(ids[:30], ids[30:40])

    assert long == short


def test_one_contributor_alone_gets_all_that_is_owed(
    tmp_path: Path, base: BaseModel, models: Checkpoints
) -> None:
    build(tmp_path / "one", models, examples_of(base, TEXTS, [7] * 8), RECIPE)
    found = run(Attributor(load_state(tmp_path / "one"), models), base, TEXTS[0])

    assert [share.account for share in found.attribution.shares] == [account(7)]
    assert found.attribution.nobody_ppb > 0


@pytest.mark.parametrize("text", ["a", TEXTS[0]], ids=["one token", "one text"])
def test_a_contributor_with_one_chunk_is_scored_beside_one_with_many(
    tmp_path: Path, base: BaseModel, models: Checkpoints, text: str
) -> None:
    examples = examples_of(base, [*TEXTS[1:], text], [0] * (len(TEXTS) - 1) + [1])
    build(tmp_path / "state", models, examples, RECIPE)
    found = run(Attributor(load_state(tmp_path / "state"), models), base, TEXTS[0])
    earned = {share.account: share.weight_ppb for share in found.attribution.shares}

    # Of one token nothing can be learned; a text that the answer repeats is worth all the others.
    assert (account(1) in earned) == (text == TEXTS[0])
    assert sum(earned.values()) + found.attribution.nobody_ppb == PARTS_PER_BILLION


def test_numbers_that_are_not_finite_pay_nobody(
    base: BaseModel, release: Path, models: Checkpoints
) -> None:
    state = load_state(release)
    adapter = some_adapter(base)
    pairs = {site: LoraPair(pair.a * float("inf"), pair.b) for site, pair in adapter.pairs.items()}
    broken = Attributor(
        state, alone(ProbedModel(base, Adapter(adapter.shape, adapter.base, pairs)))
    )
    site = state.whitener.sites[0].name
    state.whitener.features[site].scales.fill_(float("nan"))
    blurred = Attributor(state, models)

    for attributor in (broken, blurred):
        found = run(attributor, base, TEXTS[0])
        assert found.attribution.nobody_ppb == PARTS_PER_BILLION
        assert (found.unscored, found.segments) == (Unscored.NOT_FINITE, ())


def test_a_release_without_placebo_has_no_floors(
    base: BaseModel, release: Path, models: Checkpoints
) -> None:
    state = load_state(release)
    bare = msgspec.structs.replace(
        state,
        manifest=msgspec.structs.replace(state.manifest, placebo=()),
        rows=msgspec.structs.replace(state.rows, placebo=state.rows.placebo[:0]),
    )

    found = run(Attributor(bare, models), base, TEXTS[0])

    assert {cluster.floor for cluster in found.segments[0].clusters} == {0}


def test_a_state_of_another_adapter_is_refused(base: BaseModel, release: Path) -> None:
    other = some_adapter(base)
    narrow = Adapter(
        msgspec.structs.replace(other.shape, layers=(3,)),
        other.base,
        {site: pair for site, pair in other.pairs.items() if site.layer == 3},
    )

    with pytest.raises(DigestMismatchError, match="another base or adapter"):
        Attributor(load_state(release), alone(ProbedModel(base, narrow)))


def test_the_query_that_is_signed_is_the_query_that_scored(
    base: BaseModel, paying: Attributor, models: Checkpoints, release: Path
) -> None:
    state = load_state(release)
    commitment = state.manifest.commitment
    ids = base.tokenizer.encode(TEXTS[6])
    found = run(paying, base, TEXTS[6])

    vector = torch.cat(
        [part for model in models.both for part in _features(state, model, ids, 12)],
        dim=1,
    )[0]
    query = quantise_query(vector, commitment.layout, commitment.scales)

    assert digest_of_row(query) == found.segments[0].query
    assert dots(query[None], state.rows.clusters)[0] == [
        cluster.score for cluster in found.segments[0].clusters
    ]


def _features(
    state: AttributionState, model: ProbedModel, row: list[int], start: int
) -> list[torch.Tensor]:
    batch = model.batch([row], [start])
    states = model.upper(batch, has_graph=True)
    gradient = label_gradients(model, batch, states).true / batch.weights.sum()
    return state.whitener.whiten(model.gradients(states, gradient))


def test_examples_may_share_a_document(
    tmp_path: Path, base: BaseModel, models: Checkpoints, paying: Attributor
) -> None:
    examples: list[TrainingExample] = examples_of(base, TEXTS, [0] * 8)
    joined = [
        msgspec.structs.replace(example, document=i // 2) for i, example in enumerate(examples)
    ]
    build(tmp_path / "pairs", models, joined, RECIPE)

    found = run(Attributor(load_state(tmp_path / "pairs"), models), base, TEXTS[5])

    assert max(found.segments[0].clusters, key=lambda cluster: cluster.score).cluster == 2
