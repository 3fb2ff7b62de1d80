from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.influence.passes import Passes
from openledger.attribution.method import CHECKPOINTS, PLACEBO_ROWS
from openledger.lm.base import BaseModel
from openledger.lm.frozen import hidden_cache
from openledger.lm.lora import Adapter, LoraPair
from tests.attribution.releases import SEED, some_adapter, some_checkpoints, some_text

WIDTH = 4_096
TEXTS = [some_text(number, words=8 + 4 * (number % 3)) for number in range(9)]


@pytest.fixture(scope="module")
def models(base: BaseModel) -> Checkpoints:
    return some_checkpoints(base)


def passes(models: Checkpoints, rows: list[list[int]], folder: Path) -> Passes:
    hidden = hidden_cache(folder, models.final.base, models.final.split.first, rows)
    return Passes(models, SEED, rows, hidden)


def test_no_row_is_longer_for_its_tokens_than_the_middle_one(
    models: Checkpoints, tmp_path: Path
) -> None:
    """So that text which is only strange earns no more by it."""
    rows = models.final.base.tokenizer.encode_documents(TEXTS)
    work = passes(models, rows, tmp_path)
    sums = work.sums(work.fit_curvature(WIDTH), range(len(rows)))
    tokens = torch.tensor([len(row) - 1.0 for row in rows])
    found = [(one[: len(rows)].square().sum(1) / tokens).numpy() for one in sums]

    assert len(found) == CHECKPOINTS
    for one in found:
        is_shorter = one < one.max() * (1 - 1e-4)
        below = float(tokens[torch.from_numpy(is_shorter)].sum())
        assert (
            3 <= is_shorter.sum() <= 7
        )  # these stay as they are, the others are cut to one length
        assert below < tokens.sum() / 2 <= below + tokens.max()


def test_many_short_rows_do_not_move_the_middle_more_than_their_tokens(
    models: Checkpoints, tmp_path: Path
) -> None:
    rows = models.final.base.tokenizer.encode_documents(TEXTS)
    pairs = [rows[0][at : at + 2] for at in range(8)]
    work = passes(models, rows + pairs * 4, tmp_path)
    sums = work.sums(work.fit_curvature(WIDTH), range(len(rows) + 32))
    tokens = torch.tensor([len(row) - 1.0 for row in rows])

    for one in sums:
        lengths = one[: len(rows)].square().sum(1) / tokens
        assert len(np.unique(np.round(lengths.numpy(), 4))) >= 4  # not all cut to one length


def test_features_are_chosen_by_what_both_checkpoints_learned(
    base: BaseModel, tmp_path: Path
) -> None:
    """A site whose matrices are zero at a checkpoint has no gradient there."""
    adapter = some_adapter(base)
    first, *others = sorted({site.layer for site in adapter.pairs})
    models = Checkpoints(
        early=ProbedModel(base, _zeroed(adapter, {first})),
        final=ProbedModel(base, _zeroed(adapter, {*others})),
    )
    rows = base.tokenizer.encode_documents(TEXTS)

    whitener = passes(models, rows, tmp_path).fit_curvature(WIDTH)

    assert others
    assert min(whitener.widths) > 0


def test_rows_of_one_owner_are_summed_and_each_placebo_row_stands_alone(
    models: Checkpoints, tmp_path: Path
) -> None:
    rows = models.final.base.tokenizer.encode_documents(TEXTS[:4])
    alone, together = (passes(models, rows, tmp_path / name) for name in ("alone", "together"))
    whitener = alone.fit_curvature(WIDTH)
    assert together.fit_curvature(WIDTH).widths == whitener.widths
    each = alone.sums(whitener, range(4))
    summed = together.sums(whitener, [0, 0, 1, 1])

    for one, two in zip(each, summed, strict=True):
        assert len(one) == 4 + PLACEBO_ROWS
        assert len(two) == 2 + PLACEBO_ROWS
        expected = torch.stack([one[0] + one[1], one[2] + one[3]])
        torch.testing.assert_close(two[:2], expected)
        torch.testing.assert_close(two[2:], one[4:])


def test_gradients_of_nothing_have_no_length(models: Checkpoints, tmp_path: Path) -> None:
    rows = models.final.base.tokenizer.encode_documents(TEXTS[:4])
    work = passes(models, rows, tmp_path)
    whitener = work.fit_curvature(WIDTH)
    for features in whitener.features.values():
        features.scales.zero_()

    assert all(not one.any() for one in work.sums(whitener, range(4)))


def _zeroed(adapter: Adapter, layers: set[int]) -> Adapter:
    """Without what it learned in these layers."""
    pairs = {
        site: LoraPair(0 * pair.a, 0 * pair.b) if site.layer in layers else pair
        for site, pair in adapter.pairs.items()
    }
    return msgspec.structs.replace(adapter, pairs=pairs)
