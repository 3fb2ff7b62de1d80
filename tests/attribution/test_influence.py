"""The scores against what they estimate: retraining without a document."""

import msgspec
import pytest
import torch

from openledger.attribution.attribute import Attributor
from openledger.attribution.influence.gradients import ProbedModel, log_chances
from openledger.attribution.release import build
from openledger.lm.base import BaseModel
from tests.attribution.releases import RECIPE, alone, examples_of, some_text, trained_adapter

COUNT, RUNS, PROMPT = 10, 12, 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_scores_rank_the_documents_that_retraining_shows_to_matter(
    base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Half of the documents at random, many times: what the scores say and what the loss says."""
    # Neighbours share half of their words, so that influence is more than being the same text.
    words = [some_text(i, words=6) for i in range(COUNT + 1)]
    texts = [words[i] + " " + words[i + 1] for i in range(COUNT)]
    rows = base.tokenizer.encode_documents(texts)
    model = ProbedModel(base, trained_adapter(base, rows, epochs=10))
    folder = tmp_path_factory.mktemp("influence") / "state"
    state = build(folder, alone(model), examples_of(base, texts, range(COUNT)), RECIPE)
    generous = msgspec.structs.replace(state.rows, counts=state.rows.counts * 0)
    attributor = Attributor(msgspec.structs.replace(state, rows=generous), alone(model))
    scores = torch.tensor(
        [[c.score for c in attributor.influence(r[:PROMPT], r[PROMPT:])] for r in rows],
        dtype=torch.float64,
    )

    generator = torch.Generator().manual_seed(0)
    subsets = [
        sorted(torch.randperm(COUNT, generator=generator)[: COUNT // 2].tolist())
        for _ in range(RUNS)
    ]
    gains = torch.stack([_chances(base, rows, subset) for subset in subsets])  # (runs, queries)
    kept = torch.zeros(RUNS, COUNT, dtype=torch.float64)
    for run, subset in enumerate(subsets):
        kept[run, subset] = 1

    assert scores.shape == (COUNT, COUNT)
    correlations = [_rank_correlation(kept @ scores[q], gains[:, q]) for q in range(COUNT)]

    assert sum(correlations) / COUNT > 0.5


def _chances(base: BaseModel, rows: list[list[int]], subset: list[int]) -> torch.Tensor:
    model = ProbedModel(base, trained_adapter(base, [rows[i] for i in subset], epochs=10))
    found = []
    for row in rows:
        batch = model.batch([row], [PROMPT])
        found.append(log_chances(model, batch, model.upper(batch)).mean())
    return torch.stack(found)


def _rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    ranks = torch.stack([one.argsort().argsort().double(), other.argsort().argsort().double()])
    return float(torch.corrcoef(ranks)[0, 1])
