from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from openledger.core.errors import ConflictError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel, load_base
from openledger.lm.lora import LoraHost, MixMember
from openledger.lm.tiny import build_tiny
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import AdapterRef, Config
from openledger.serving.runner import LlamaRunner
from tests.serving.conformance import EngineConformance, Kit, answer, ask, use
from tests.serving.tiny import llama_adapter

CONFIG = Config(threads=1, context=64, max_active=2, max_waiting=2, buffer_tokens=4)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


@pytest.fixture
def base(base_folder: Path) -> BaseModel:
    return load_base(base_folder)


@pytest.fixture(scope="module")
def adapters(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    home = tmp_path_factory.mktemp("adapters")
    base = load_base(base_folder)
    refs = [llama_adapter(home / str(i), base, i, rank=4 + i) for i in range(3)]
    weights = refs[2].path / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    return refs


class TestEmbeddedLlama(EngineConformance):
    @pytest.fixture
    def kit(self, base: BaseModel, adapters: list[AdapterRef], tmp_path: Path) -> Iterator[Kit]:
        engine = EmbeddedEngine(LlamaRunner(base), CONFIG)
        yield Kit(
            engine=engine,
            first=adapters[0],
            second=adapters[1],
            broken=adapters[2],
            missing=AdapterRef(Digest("f" * 64), tmp_path / "missing"),
            capacity=4,
        )
        engine.close()


def test_tokens_and_log_probabilities_are_those_of_one_plain_pass(
    base: BaseModel, base_folder: Path, adapters: list[AdapterRef]
) -> None:
    engine = EmbeddedEngine(LlamaRunner(base), Config(threads=1, prefill_chunk=16))
    for ref in adapters[:2]:
        engine.load(ref)
    weights = (0.75, 0.5)
    mix = tuple(
        msgspec.structs.replace(member, weight=weight)
        for member, weight in zip(use(*adapters[:2]), weights, strict=True)
    )
    prompt = tuple(range(40, 80))
    tokens = answer(engine, ask(prompt, mix=mix, max_tokens=10))
    engine.close()

    plain = load_base(base_folder)
    runner = LlamaRunner(plain)
    host = LoraHost(plain.model, plain.digest)
    for ref in adapters[:2]:
        host.add(ref.digest, runner.read(ref).adapter)
    members = [MixMember(m.adapter, m.weight) for m in mix]
    ids = torch.tensor([[*prompt, *(token.id for token in tokens)]])
    with host.mixed(members) as model, torch.inference_mode():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].double()  # (T, V)
    logprobs = logits.log_softmax(-1)

    assert logits.argmax(-1).tolist() == [token.id for token in tokens]
    for row, token in zip(logprobs, tokens, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)


def test_an_adapter_of_another_base_is_refused(adapters: list[AdapterRef], tmp_path: Path) -> None:
    build_tiny(tmp_path / "other", seed=1)
    runner = LlamaRunner(load_base(tmp_path / "other"))

    with pytest.raises(ConflictError, match="trained on base model"):
        runner.read(adapters[0])


def test_the_runner_tells_what_its_base_can(base: BaseModel) -> None:
    runner = LlamaRunner(base)

    assert (runner.base, runner.context, runner.dtype) == (base.digest, 512, "float32")
    assert runner.vocabulary >= base.tokenizer.size
    assert runner.max_rank == 256
