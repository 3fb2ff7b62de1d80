"""A run that was stopped goes on, and believes nothing that is not its own."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.attribution.kept import Kept, training_key
from bench.attribution.setting import Setting
from bench.attribution.tiny import RECIPE
from bench.attribution.truth import Retraining, trajectory
from openledger.core.types import Digest
from openledger.lm.lora import Adapter

SHORT = msgspec.structs.replace(RECIPE, epochs=2, last_layers=2)


def of(setting: Setting, folder: Path) -> Retraining:
    return Retraining(setting.base, SHORT, tuple(d.tokens for d in setting.documents), Kept(folder))


def equal(one: Adapter, other: Adapter) -> bool:
    pairs = [(one.pairs[site], other.pairs[site]) for site in one.pairs]
    return all(bool((x.a == y.a).all() and (x.b == y.b).all()) for x, y in pairs)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many adapters are trained, call by call."""
    done: list[int] = []
    train = Retraining.adapters

    def counting(self: Retraining, kept: np.ndarray, seed: int) -> list[Adapter]:
        done.append(len(kept))
        return train(self, kept, seed)

    monkeypatch.setattr(Retraining, "adapters", counting)
    return done


def test_only_what_is_new_is_retrained(
    setting: Setting, tmp_path: Path, counted: list[int]
) -> None:
    kept = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]], np.int8)
    queries = setting.queries[:2]

    first = of(setting, tmp_path).losses(kept[:2], queries, [1], lambda _: None)
    again = of(setting, tmp_path).losses(kept, queries, [1], lambda _: None)
    more = of(setting, tmp_path).losses(kept[:1], queries, [1, 2], lambda _: None)

    assert counted == [2, 1, 1]
    assert (again.losses[:, :2] == first.losses).all()
    assert (more.losses[0] == first.losses[0, :1]).all()
    assert more.losses[1] != pytest.approx(more.losses[0])


def test_new_queries_ask_the_same_adapters(
    setting: Setting, tmp_path: Path, counted: list[int]
) -> None:
    kept = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], np.int8)
    whole = of(setting, tmp_path / "one").losses(kept, setting.queries, [1], lambda _: None)
    of(setting, tmp_path / "two").losses(kept, setting.queries[:1], [1], lambda _: None)
    later = of(setting, tmp_path / "two").losses(kept, setting.queries, [1], lambda _: None)

    assert counted == [2, 2]
    assert (later.losses == whole.losses).all()


def test_a_trajectory_is_the_same_when_it_is_read_back(setting: Setting, tmp_path: Path) -> None:
    made = trajectory(of(setting, tmp_path), 0, 2)
    read = trajectory(of(setting, tmp_path), 0, 2)

    assert [one.learning_rate for one in made] == [one.learning_rate for one in read]
    assert all(equal(x.adapter, y.adapter) for x, y in zip(made, read, strict=True))
    assert not equal(made[0].adapter, made[1].adapter)


def test_whatever_decides_a_training_names_it(setting: Setting) -> None:
    base = setting.base
    rows = [document.tokens for document in setting.documents]
    slower = msgspec.structs.replace(SHORT, learning_rate_micro=1)
    keys = {
        training_key(base, SHORT, rows, 1),
        training_key(base, SHORT, rows[::-1], 1),
        training_key(base, SHORT, rows[1:], 1),
        training_key(base, SHORT, rows, 2),
        training_key(base, slower, rows, 1),
        training_key(base, SHORT, rows, 1, "1/2"),
    }

    assert len(keys) == 6
    probed = msgspec.structs.replace(SHORT, evaluations=9)
    assert training_key(base, probed, rows, 1) in keys


def test_a_broken_write_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path)

    def broken(self: Path, target: Path) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        with pytest.raises(OSError, match="power"):
            kept.keep_losses(training(), "queries", np.array([1.5]))
    assert kept.losses(training(), "queries") is None

    kept.keep_losses(training(), "queries", np.array([1.5]))
    assert kept.losses(training(), "queries") == 1.5


def training() -> Digest:
    return Digest("1" * 64)
