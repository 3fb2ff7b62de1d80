"""A server on loopback whose model is tiny, whose money is counted and whose steps can be held."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

import msgspec

from openledger.lm.base import BaseModel, load_base
from openledger.operations.wallets import NewKey
from openledger.serving.batch import Chunk, Output
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import Config
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.request import GenerationRequest, Sampling
from openledger.serving.runner import LlamaRunner
from openledger.settings import ServeSettings
from openledger.storage.records.model.releases import Release
from openledger.web.operations import wallets
from openledger.web.server import RunningServer
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.serving.tiny import llama_adapter

PLACES = 4
_PATIENCE_S = 30.0


class HeldRunner(LlamaRunner):
    """Takes only as many steps as it may, where anybody said so."""

    def __init__(self, base: BaseModel, packed: Path) -> None:
        super().__init__(base, packed)
        self._changed = Condition()
        self._left: int | None = None

    def hold(self, steps: int | None) -> None:
        """Let so many more steps happen; None: all."""
        with self._changed:
            self._left = steps
            self._changed.notify_all()

    def run(self, chunks: Sequence[Chunk[PackedAdapter]]) -> Output:
        with self._changed:
            assert self._changed.wait_for(lambda: self._left != 0, _PATIENCE_S)
            if self._left is not None:
                self._left -= 1
        return super().run(chunks)


class Served(msgspec.Struct, frozen=True):
    """The server, seen from both sides."""

    url: str  # of /v1
    key: str
    platform: Platform
    engine: EmbeddedEngine[PackedAdapter]
    runner: HeldRunner

    @contextmanager
    def held(self, steps: int) -> Iterator[None]:
        """The engine takes so many steps, then none until the end."""
        self.runner.hold(steps)
        try:
            yield
        finally:
            self.runner.hold(None)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Every place taken, by answers of others that nobody reads."""
        with self.held(0):
            others = [self.engine.submit(_other(number)) for number in range(PLACES)]
            try:
                yield
            finally:
                for one in others:
                    one.cancel()
        for one in others:
            one.usage()  # it has ended


@contextmanager
def serve_tiny(source: Path, home: Path, slow_reader_s: int = 30) -> Iterator[Served]:
    """Serve a copy of the market with two releases that answer differently."""
    with fair.open_copy(source, home, ServeSettings(slow_reader_s=slow_reader_s)) as platform:
        base = load_base(platform.models.base_folder)
        runner = HeldRunner(base, platform.home.packed)
        # One thread; half of the places wait, so that both kinds are taken when it is full.
        config = Config(
            threads=1,
            max_active=PLACES // 2,
            max_waiting=PLACES // 2,
            slow_reader_s=slow_reader_s,
        )
        engine = platform.models.engine = EmbeddedEngine(runner, config)
        for seed, name in enumerate(("reels", "jigs"), 1):
            _publish(platform, name, seed)
        server = RunningServer(platform, 0)
        for one in server._listening.sockets:  # small, so that who does not read is soon noticed
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        server.start()
        try:
            key = wallets.new_key(platform, NewKey("dev")).key
            yield Served(f"{server.url}/v1", key, platform, engine, runner)
        finally:
            server.stop()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Fail when it does not become so."""
    end = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def _publish(platform: Platform, name: str, seed: int) -> Release:
    scratch = platform.home.adapter("new")
    made = llama_adapter(scratch, load_base(platform.models.base_folder), seed)
    scratch.rename(platform.home.adapter(made.digest))
    run = fair.trained(platform, name, made.digest)
    release = platform.publish.run(fair.offer(run, name))
    platform.models.serve(release)
    return release


def _other(number: int) -> GenerationRequest:
    return GenerationRequest(
        id=f"other {number}",
        tenant=f"other {number}",
        prompt_ids=(1,),
        mix=(),
        sampling=Sampling(bytes(32)),
        max_tokens=400,
        stop_ids=frozenset(),
        deadline_s=2 * _PATIENCE_S,
    )
