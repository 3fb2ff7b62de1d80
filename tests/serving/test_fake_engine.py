import pytest

from openledger.core.errors import EngineFaultError
from tests.fakes import FakeEngine
from tests.serving.conformance import answer, ask


def test_a_script_is_the_answer_and_then_stops() -> None:
    assert [token.id for token in answer(FakeEngine(script=[1, 2]), ask())] == [1, 2]


def test_it_breaks_where_it_is_told_to() -> None:
    engine = FakeEngine()
    engine.breaks_at = 1
    stream = engine.submit(ask())

    next(stream)
    with pytest.raises(EngineFaultError):
        next(stream)
