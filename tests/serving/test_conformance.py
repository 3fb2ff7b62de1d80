"""Every engine there is keeps one contract; see `conformance.py`.

Those that compute have the tiny base and are compared with transformers on it, their mixes with
`lm.lora`. vLLM itself runs only where `OPENLEDGER_TEST_VLLM` names its command, or the URL of a
server that was started, as below, on a base that `wide_headed` wrote.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from openledger.core.types import Digest
from openledger.lm.base import BaseModel, load_base
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import AdapterRef, Config, Engine
from openledger.serving.native.library import load_library
from openledger.serving.request import MixMember
from openledger.serving.runner import Arithmetic, LlamaRunner
from openledger.serving.vllm.client import ServerConfig
from openledger.serving.vllm.engine import Place, VllmEngine
from tests.fakes import FakeEngine, FakeVllm, HashRunner, hash_logits
from tests.serving.conformance import EngineConformance, Kit
from tests.serving.tiny import exact_adapter, fake_adapter, hash_adapter, logits_of, wide_headed

CONTEXT = 64
CONFIG = Config(
    threads=1,
    context=CONTEXT,
    max_active=2,
    max_waiting=2,
    buffer_tokens=4,
    prefill_chunk=16,
    step_tokens=32,
    kv_bytes=1 << 22,
)
CAPACITY = CONFIG.max_active + CONFIG.max_waiting
MISSING = Digest("f" * 64)

Logits = NDArray[np.float32]
Opened = tuple[Engine, Callable[[], None]]


@dataclass
class Tiny:
    """The tiny base, and two copies of it that a function computes with each."""

    base: BaseModel
    for_reference: Callable[..., Logits]
    for_server: Callable[..., Logits]


@pytest.fixture(scope="module")
def tiny(base_folder: Path) -> Tiny:
    return copies_of(base_folder)


def copies_of(folder: Path) -> Tiny:
    return Tiny(load_base(folder), logits_of(load_base(folder)), logits_of(load_base(folder)))


@pytest.fixture(scope="module")
def wide(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return copies_of(wide_headed(tmp_path_factory.mktemp("models") / "wide", tiny.base).folder)


@pytest.fixture(scope="module")
def vllm_url(wide: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server of this machine's CPU, on the tiny base."""
    command = os.environ.get("OPENLEDGER_TEST_VLLM")
    if command is None:
        pytest.skip("OPENLEDGER_TEST_VLLM names neither a `vllm` command nor the URL of a server")
    if command.startswith("http"):
        yield command
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    flags = f"""--host 127.0.0.1 --port {port} --dtype float32 --max-model-len {CONTEXT}
        --enable-lora --max-lora-rank 64 --max-loras 4 --max-cpu-loras 16 --max-num-seqs 8
        --generation-config vllm --enforce-eager"""
    with (tmp_path_factory.mktemp("vllm") / "log").open("wb") as said:
        server = subprocess.Popen(
            [command, "serve", str(wide.base.folder), *flags.split()],
            env=os.environ | environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


def wait_until_healthy(url: str, server: "subprocess.Popen[bytes]") -> None:
    while server.poll() is None:
        with suppress(httpx.HTTPError):
            httpx.get(f"{url}/health").raise_for_status()
            return
        time.sleep(1)
    raise AssertionError(f"vLLM ended with status {server.returncode}")


def fake_kit(folder: Path) -> Iterator[Kit]:
    yield Kit(
        engine=FakeEngine(),
        first=fake_adapter(folder / "first", "first"),
        second=fake_adapter(folder / "second", "second"),
        broken=fake_adapter(folder / "broken", "broken", "altered"),
        missing=AdapterRef(MISSING, folder / "missing"),
        capacity=4,
    )


def hash_kit(folder: Path) -> Iterator[Kit]:
    first, second = (hash_adapter(folder / name, name) for name in ("first", "second"))
    names = {first.digest: "first", second.digest: "second"}

    def reference(token_ids: Sequence[int], mix: tuple[MixMember, ...]) -> Logits:
        named = [(names[member.adapter], member.weight) for member in mix if member.weight]
        return hash_logits(token_ids, named)

    engine = EmbeddedEngine(HashRunner(), CONFIG)
    yield Kit(
        engine=engine,
        first=first,
        second=second,
        broken=hash_adapter(folder / "broken", "broken", "altered"),
        missing=AdapterRef(MISSING, folder / "missing"),
        capacity=CAPACITY,
        reference=reference,
    )
    engine.close()


def llama_kit(folder: Path, engine: Engine, base: BaseModel, logits: Callable[..., Logits]) -> Kit:
    """For an engine that computes: its adapters are of this base."""
    first, second = (
        exact_adapter(folder / "first", base, 1, 4),
        exact_adapter(folder / "second", base, 2, 13),
    )
    broken = exact_adapter(folder / "broken", base, 3, 4)
    weights = broken.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    paths = {first.digest: first.path, second.digest: second.path}

    def reference(token_ids: Sequence[int], mix: tuple[MixMember, ...]) -> Logits:
        return logits(token_ids, [(paths[one.adapter], one.weight) for one in mix])

    return Kit(
        engine=engine,
        first=first,
        second=second,
        broken=broken,
        missing=AdapterRef(MISSING, folder / "missing"),
        capacity=CAPACITY,
        reference=reference,
    )


def embedded_kit(folder: Path, tiny: Tiny, *, is_native: bool) -> Iterator[Kit]:
    if is_native and load_library() is None:
        pytest.skip("no C compiler here")
    runner = LlamaRunner(tiny.base, folder / "packed", Arithmetic(is_native=is_native))
    engine = EmbeddedEngine(runner, CONFIG)
    yield llama_kit(folder, engine, tiny.base, tiny.for_reference)
    engine.close()


def vllm_kit(folder: Path, tiny: Tiny) -> Iterator[Kit]:
    @cache
    def computed(token_ids: tuple[int, ...], adapter: Path | None) -> Logits:
        return tiny.for_server(token_ids, [] if adapter is None else [(adapter, 1.0)])

    server = FakeVllm(lambda token_ids, adapter: computed(tuple(token_ids), adapter), CONTEXT)
    yield from served_kit(folder, server.url, tiny)
    server.close()


def served_kit(folder: Path, url: str, tiny: Tiny) -> Iterator[Kit]:
    place = Place(ServerConfig(url, max_rank=64), folder / "shelf", str(folder / "shelf"))
    engine = VllmEngine(place, tiny.base, CONFIG)
    yield llama_kit(folder, engine, tiny.base, tiny.for_reference)
    engine.close()


class TestEveryEngine(EngineConformance):
    @pytest.fixture(params=["fake", "hash", "embedded in C", "embedded in torch", "vllm, faked"])
    def kit(self, request: pytest.FixtureRequest, tmp_path: Path, tiny: Tiny) -> Iterator[Kit]:
        match request.param:
            case "fake":
                yield from fake_kit(tmp_path)
            case "hash":
                yield from hash_kit(tmp_path)
            case "vllm, faked":
                yield from vllm_kit(tmp_path, tiny)
            case kernels:
                yield from embedded_kit(tmp_path, tiny, is_native=kernels.endswith("C"))


@pytest.mark.slow
class TestVllmItself(EngineConformance):
    @pytest.fixture
    def kit(self, vllm_url: str, tmp_path: Path, wide: Tiny) -> Iterator[Kit]:
        yield from served_kit(tmp_path, vllm_url, wide)
