import msgspec
import numpy as np
import pytest
import torch

from bench.attribution import ours, peers
from bench.attribution.peers import PEERS, available, gradient, left_out
from bench.attribution.peers.passes import document_rows, groups, query_rows
from bench.attribution.setting import Query, Setting
from openledger.attribution.influence.gradients import ProbedModel
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraHost, MixMember
from tests.attribution.releases import ADAPTER

DATTRI = [name for name in PEERS if name.startswith("dattri-llm")]
KRONFLUENCE = "kronfluence EK-FAC, relative damping"
FINDS_ITS_SOURCE = ["bm25", "longest span", "gradient dot", "gradient cosine", "tracin"]

# peft 0.21 still asks transformers 5.23 by a name that goes away in v6.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def scores_of(name: str, setting: Setting) -> np.ndarray:
    if name in left_out():
        pytest.skip(f"{name}: {left_out()[name]}")
    return PEERS[name](setting)


def autograd(setting: Setting, adapter: Adapter, row: tuple[int, ...], start: int) -> torch.Tensor:
    """(K,) the gradient of the summed loss of a row's tokens from `start` on."""
    factors = [
        factor.requires_grad_() for pair in adapter.pairs.values() for factor in (pair.a, pair.b)
    ]
    host = LoraHost(setting.base.model, setting.base.digest)
    host.add(ADAPTER, adapter)
    try:
        with host.mixed([MixMember(ADAPTER)]) as model:
            logits = model(torch.tensor([row])).logits[0, start - 1 : -1]
            loss = torch.nn.functional.cross_entropy(
                logits, torch.tensor(row[start:]), reduction="sum"
            )
            found = torch.autograd.grad(loss, factors)
    finally:
        host.close()
        for factor in factors:
            factor.requires_grad_(False)
    return torch.cat([one.flatten() for one in found])


@pytest.mark.parametrize("name", [name for name in PEERS if name not in (*DATTRI, KRONFLUENCE)])
def test_every_peer_scores_every_document_for_every_query(name: str, setting: Setting) -> None:
    few = msgspec.structs.replace(setting, queries=setting.queries[:4])
    scores = scores_of(name, few)

    assert scores.shape == (6, 4)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert np.array_equal(scores, PEERS[name](few))


@pytest.mark.parametrize("name", FINDS_ITS_SOURCE)
def test_a_query_out_of_a_document_ranks_it_first(name: str, setting: Setting) -> None:
    assert scores_of(name, setting).argmax(0).tolist() == [5, 4, 3, 2, 1, 0]


def test_gradients_are_those_of_plain_autograd(setting: Setting) -> None:
    """Of the sum over a document's tokens, and of the mean over an answer's."""
    document, query = setting.documents[1], setting.queries[2]
    start = len(query.prompt)
    pairs = [
        (
            autograd(setting, checkpoint.adapter, document.tokens, 1),
            autograd(setting, checkpoint.adapter, query.tokens, start) / len(query.answer),
        )
        for checkpoint in setting.checkpoints
    ]
    dots = [float(given @ asked) for given, asked in pairs]
    cosine = float(torch.cosine_similarity(*pairs[-1], dim=0))

    assert gradient.gradient_dot(setting)[1, 2] == pytest.approx(dots[-1], rel=1e-3)
    assert gradient.gradient_cosine(setting)[1, 2] == pytest.approx(cosine, rel=1e-3)
    weighted = 1e-2 * dots[0] + 5e-3 * dots[1]  # by the learning rates
    assert gradient.tracin(setting)[1, 2] == pytest.approx(weighted, rel=1e-3)


def test_groups_hold_every_row_once_and_weigh_only_what_has_a_loss(setting: Setting) -> None:
    model = ProbedModel(setting.base, setting.adapter)
    for rows in (document_rows(setting), query_rows(setting)):
        seen: list[int] = []
        for group in groups(model, rows):
            wanted = [len(rows[place].tokens) - rows[place].start for place in group.places]
            assert group.batch.weights.sum(1).tolist() == wanted
            seen += group.places
        assert sorted(seen) == list(range(len(rows)))


def test_a_larger_document_scores_more_by_size(setting: Setting) -> None:
    scores = PEERS["document size"](setting)

    assert scores[:, 0].tolist() == [len(document.tokens) for document in setting.documents]
    assert (scores == scores[:, :1]).all()


def test_the_longest_span_is_counted_in_tokens(setting: Setting) -> None:
    middle = setting.documents[2].tokens[3:9]
    first = setting.documents[4].tokens[:2]
    other = Query("joined", (1,), (*first, *middle), "generated")
    scores = PEERS["longest span"](msgspec.structs.replace(setting, queries=(other,)))

    assert scores[2, 0] == 6
    assert 2 <= scores[4, 0] < 6


def test_no_span_reaches_over_the_end_of_a_document(setting: Setting) -> None:
    joint = (*setting.documents[0].tokens[-3:], *setting.documents[1].tokens[:3])
    query = Query("joint", (1,), joint, "generated")
    scores = PEERS["longest span"](msgspec.structs.replace(setting, queries=(query,)))

    assert scores[:2, 0].tolist() == [3, 3]


@pytest.mark.parametrize("text", ["zzz yyy", "|: :|"])
def test_words_that_no_document_has_score_nothing_by_bm25(text: str, setting: Setting) -> None:
    query = Query("strange", (1,), tuple(setting.base.tokenizer.encode(text)), "outside")
    scores = scores_of("bm25", msgspec.structs.replace(setting, queries=(query,)))

    assert scores.tolist() == [[0.0]] * 6


def test_a_peer_without_its_package_is_left_out_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "bm25s" else object())

    assert left_out() == {"bm25": "bm25s not installed: pip install 'openledger[bench]'"}
    assert list(available()) == [name for name in PEERS if name != "bm25"]


def test_what_does_not_come_with_the_extra_says_how_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "einops" else object())

    reason = "einops not installed: pip install --no-deps kronfluence einconv einops opt-einsum"
    assert left_out() == {KRONFLUENCE: reason}


@PEFT_WARNS
@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning")
@pytest.mark.slow
def test_kronfluence_agrees_with_our_influence_without_shortcuts(setting: Setting) -> None:
    theirs = scores_of(KRONFLUENCE, setting)

    assert theirs.shape == (6, 6)
    assert theirs.argmax(0).tolist() == [5, 4, 3, 2, 1, 0]
    exact = ours.ekfac(setting, [setting.adapter])
    assert np.corrcoef(theirs.ravel(), exact.ravel())[0, 1] > 0.97


@PEFT_WARNS
@pytest.mark.slow
@pytest.mark.parametrize("name", DATTRI)
def test_dattri_llm_scores_every_document_for_every_query(name: str, setting: Setting) -> None:
    scores = scores_of(name, setting)

    assert scores.shape == (6, 6)
    assert np.isfinite(scores).all()
    assert scores.argmax(0).tolist() == [5, 4, 3, 2, 1, 0]


@PEFT_WARNS
@pytest.mark.slow
def test_dattri_llm_keeps_our_order_and_agrees_on_the_gradient_dot(
    setting: Setting, base: BaseModel
) -> None:
    """It joins equal samples: a document twice, and one text as two queries, must not shift it."""
    twice = setting.documents[3]
    text = setting.queries[1].tokens
    documents = (*setting.documents[:2], twice, *setting.documents[2:])
    queries = (
        *setting.queries,
        Query("longer", text[:3], text[3:], "held-out"),
        setting.queries[4],
    )
    doubled = msgspec.structs.replace(setting, documents=documents, queries=queries)

    theirs = scores_of("dattri-llm gradient dot", doubled)
    ours = gradient.gradient_dot(doubled)

    assert theirs.shape == ours.shape == (7, 8)
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.9999
    assert theirs == pytest.approx(ours, rel=1e-2, abs=1e-3 * float(np.abs(ours).max()))
