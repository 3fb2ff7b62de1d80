"""Files of adapters that are cut short or vanish while answers are made with them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from openledger.core.errors import NotFoundError
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import AdapterRef, Config
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.request import Finish, GenerationRequest, Token
from openledger.serving.runner import LlamaRunner
from tests.serving.conformance import answer, ask, use
from tests.serving.tiny import llama_adapter

CONFIG = Config(threads=1, buffer_tokens=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder)


@pytest.fixture
def refs(base: BaseModel, tmp_path: Path) -> list[AdapterRef]:
    return [llama_adapter(tmp_path / name, base, seed) for seed, name in enumerate("ab")]


@pytest.fixture
def engine(
    base: BaseModel, refs: list[AdapterRef], tmp_path: Path
) -> Iterator[EmbeddedEngine[PackedAdapter]]:
    """With room for one of the two adapters."""
    runner = LlamaRunner(base, tmp_path / "packed")
    size = max(runner.read(ref).size_bytes for ref in refs)
    config = msgspec.structs.replace(CONFIG, adapter_bytes=size)
    made = EmbeddedEngine(runner, config)
    for ref in refs:
        made.load(ref)
    yield made
    made.close()


def long(ref: AdapterRef) -> GenerationRequest:
    return ask(mix=use(ref), max_tokens=24)


@pytest.fixture
def wanted(engine: EmbeddedEngine[PackedAdapter], refs: list[AdapterRef]) -> list[list[Token]]:
    """Both answers while all files are whole."""
    return [answer(engine, long(ref)) for ref in refs]


@pytest.mark.parametrize("is_gone", [False, True], ids=["cut short", "gone"])
def test_a_packed_file_that_is_cut_short_or_gone_changes_no_answer(
    engine: EmbeddedEngine[PackedAdapter],
    refs: list[AdapterRef],
    wanted: list[list[Token]],
    tmp_path: Path,
    *,
    is_gone: bool,
) -> None:
    first = tmp_path / "packed" / refs[0].digest
    stream = engine.submit(long(refs[0]))
    begun = [next(stream)]  # its buffer is full long before its end
    if is_gone:
        first.unlink()
    else:
        first.chmod(0o600)
        os.truncate(first, first.stat().st_size // 2)  # in place, as a mapping would see it

    assert [*begun, *stream] == wanted[0]
    assert answer(engine, long(refs[1])) == wanted[1]  # the first is evicted
    assert answer(engine, long(refs[0])) == wanted[0]  # packed again from its folder


def test_a_disk_that_is_gone_fails_only_who_needs_it(
    engine: EmbeddedEngine[PackedAdapter],
    refs: list[AdapterRef],
    wanted: list[list[Token]],
    tmp_path: Path,
) -> None:
    stream = engine.submit(long(refs[1]))  # resident, since it answered last
    begun = [next(stream)]
    shutil.rmtree(tmp_path / "packed")
    for ref in refs:
        shutil.rmtree(ref.path)
    lost = engine.submit(long(refs[0]))  # waits until the room is free

    assert [*begun, *stream] == wanted[1]
    with pytest.raises(NotFoundError):
        list(lost)
    assert lost.usage().finish is Finish.FAULT
    assert answer(engine, ask(max_tokens=4))  # the base alone
    assert engine.is_alive
