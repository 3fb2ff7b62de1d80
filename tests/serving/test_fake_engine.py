from hashlib import sha256
from pathlib import Path

import pytest

from openledger.core.errors import EngineFaultError
from openledger.core.types import Digest
from openledger.serving.engine import AdapterRef
from tests.fakes import FAKE_ADAPTER_FILE, FakeEngine
from tests.serving.conformance import EngineConformance, Kit, answer, ask


def _adapter(folder: Path, text: str, content: str | None = None) -> AdapterRef:
    folder.mkdir()
    (folder / FAKE_ADAPTER_FILE).write_text(text if content is None else content)
    return AdapterRef(Digest(sha256(text.encode()).hexdigest()), folder)


class TestFakeEngine(EngineConformance):
    @pytest.fixture
    def kit(self, tmp_path: Path) -> Kit:
        return Kit(
            engine=FakeEngine(),
            first=_adapter(tmp_path / "first", "first"),
            second=_adapter(tmp_path / "second", "second"),
            broken=_adapter(tmp_path / "broken", "broken", "altered"),
            missing=AdapterRef(Digest("f" * 64), tmp_path / "missing"),
            capacity=4,
        )


def test_a_script_is_the_answer_and_then_stops() -> None:
    assert [token.id for token in answer(FakeEngine(script=[1, 2]), ask())] == [1, 2]


def test_it_breaks_where_it_is_told_to() -> None:
    engine = FakeEngine()
    engine.breaks_at = 1
    stream = engine.submit(ask())

    next(stream)
    with pytest.raises(EngineFaultError):
        next(stream)
