from pathlib import Path

import pytest
import torch

from openledger.lm.base import BaseModel
from openledger.lm.frozen import SplitModel, hidden_cache
from openledger.training.evaluate import Measured, first_rows, measure
from openledger.training.rows import Row, encode_rows
from tests.training.songs import example


def test_the_loss_is_that_of_the_whole_model(base: BaseModel, tmp_path: Path) -> None:
    rows = encode_rows(base.tokenizer, [example(i) for i in range(30)], 64)
    cache = hidden_cache(tmp_path, base, 2, [row.tokens for row in rows])
    told: list[tuple[int, int]] = []

    found = measure(SplitModel(base.model, 2), cache, rows, lambda *done: told.append(done))

    nats = 0.0
    for row in rows:
        ids = torch.tensor([row.tokens])
        nats += float(base.model(ids, labels=ids).loss) * row.predicted
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.tokens == sum(row.predicted for row in rows)
    assert told[-1] == (len(rows), len(rows))
    assert len(told) > 1


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert Measured(nats=20.0, tokens=10).perplexity == pytest.approx(7.389, abs=1e-3)


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (3, 1), (4, 2), (100, 2)])
def test_the_first_rows_hold_enough_tokens(tokens: int, count: int) -> None:
    rows = (Row(0, (1, 2, 3, 4)), Row(1, (1, 2)))

    assert len(first_rows(rows, tokens)) == count
