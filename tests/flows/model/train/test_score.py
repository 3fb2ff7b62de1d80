"""Only tunes are judged by what the adapter writes."""

import pytest

from openledger.core.errors import StoppedError
from openledger.core.types import Account, Digest
from openledger.datanet.sources import tiny
from openledger.flows.model.train.score import score
from openledger.lm.tokenizer import Tokenizer
from openledger.serving.engine import AdapterRef
from openledger.training.rows import Example
from openledger.training.split import Split
from tests import market as fair
from tests.fakes import FAKE_ADAPTER_FILE, FakeEngine

TUNES = [document.text for one in tiny.contributors() for document in one.documents]


def go_on() -> None:
    """Nobody asks to stop."""


def split_of(*held_out: str) -> Split:
    def example(place: int, text: str) -> Example:
        return Example(Digest("1" * 64), place, Account("0x" + "1" * 40), text, str(place))

    made = [example(place, text) for place, text in enumerate((*TUNES, *held_out))]
    return Split(tuple(made[: len(TUNES)]), tuple(made[len(TUNES) :]))


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> FakeEngine:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / FAKE_ADAPTER_FILE).write_bytes(b"adapter")
    body = TUNES[0].partition("\nK:")[2].partition("\n")[2]
    made = FakeEngine(4_096, tokenizer.size, script=tokenizer.encode(body))
    made.load(AdapterRef(fair.ADAPTER, folder))
    return made


def test_a_tune_that_was_learnt_by_heart_counts_as_copied(
    engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    found = score(engine, tokenizer, fair.ADAPTER, split_of(TUNES[0], TUNES[0]), 1, go_on)

    assert found is not None
    assert found.tunes == 1
    assert found.copied == 1.0


@pytest.mark.parametrize(
    "text", ["A page of a manual.", "X:1\nT:No key\nABC|", "X:1\nM:no metre\nL:x\nK:zz\n|||\x00"]
)
def test_what_is_no_tune_has_no_score(engine: FakeEngine, tokenizer: Tokenizer, text: str) -> None:
    assert score(engine, tokenizer, fair.ADAPTER, split_of(text), 4, go_on) is None


def test_nothing_asked_for_is_nothing_written(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    assert score(engine, tokenizer, fair.ADAPTER, split_of(TUNES[0]), 0, go_on) is None
    assert engine.stats().completion_tokens == 0


def test_writing_ends_with_the_token_at_which_it_is_asked_to_stop(
    engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    calls = iter([None, None, StoppedError("the process ends")])

    def check_stop() -> None:
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(StoppedError):
        score(engine, tokenizer, fair.ADAPTER, split_of(TUNES[0], TUNES[1]), 2, check_stop)
    assert engine.stats().finished["cancelled"] == 2
