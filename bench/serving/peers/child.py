"""A peer in a Python of its own, told over pipes what to do; it counts its CPU time itself."""

import os
import subprocess
from pathlib import Path
from typing import IO, TypeVar

import msgspec
import numpy as np

from bench.serving.peers.contender import Cell, Cost
from bench.serving.peers.own import Own
from bench.serving.world import RANK, World
from openledger.core.errors import UnavailableError

_ROOT = Path(__file__).resolve().parents[3]
_CLOSING_S = 30.0
_TOLD = 2_000  # characters of what a peer said before it ended


Reply = TypeVar("Reply", bound=msgspec.Struct)


class _Setup(msgspec.Struct, frozen=True):
    base: str
    adapters: list[str]
    rank: int
    prompts: tuple[tuple[int, ...], ...]
    room_tokens: int
    precision: str


class _Order(msgspec.Struct, frozen=True):
    rows: int
    adapters: int
    tokens: int  # of each answer; 0: only the likeliest first tokens


class _Ready(msgspec.Struct, frozen=True):
    about: str


class _Ran(msgspec.Struct, frozen=True):
    cpu_s: float
    tokens: int


class _First(msgspec.Struct, frozen=True):
    ids: list[int]
    logprobs: list[float]


class Start(msgspec.Struct, frozen=True):
    """How a peer is started, and with which files."""

    name: str  # of the contender
    module: str  # serves as `bench.serving.children` do
    python: Path
    precision: str
    base: Path
    adapters: tuple[Path, ...]
    most_apart: float  # its log-probabilities from ours in float32


class Child:
    """A `Contender` behind a pipe; close it."""

    def __init__(self, start: Start, world: World, folder: Path) -> None:
        """Start it and wait until it is ready.

        Raises:
            UnavailableError: it ended instead.
        """
        self.name = start.name
        self.most_apart = start.most_apart
        self._said = folder / f"{start.name}.log"
        setup = _Setup(
            base=str(start.base),
            adapters=[str(path) for path in start.adapters],
            rank=RANK,
            prompts=world.prompts,
            room_tokens=world.room_tokens,
            precision=start.precision,
        )
        file = folder / f"{start.name}.json"
        file.write_bytes(msgspec.json.encode(setup))
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [start.python, "-m", start.module, file],
                cwd=_ROOT,
                env=os.environ | {"PYTHONPATH": str(_ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        self.about = self._read(_Ready).about

    def can(self, cell: Cell) -> bool:
        """All cells."""
        return cell.rows > 0

    def run(self, cell: Cell, tokens: int) -> Cost:
        """See `Contender`."""
        self._tell(_Order(cell.rows, cell.adapters, tokens))
        ran = self._read(_Ran)
        if ran.tokens != cell.rows * tokens:
            raise UnavailableError(
                f"{self.name} made {ran.tokens} tokens in {cell.name}, not {cell.rows * tokens}; "
                "its speed says nothing"
            )
        return Cost(ran.cpu_s, None)

    def apart(self, own: Own, rows: int) -> float:
        """How far the log-probabilities of its likeliest first tokens are from ours, at most.

        Every row has an adapter of its own.
        """
        self._tell(_Order(rows, rows, 0))
        first = self._read(_First)
        logits = own.logits(rows).astype(np.float64)
        ours = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        return float(abs(ours[np.arange(rows), first.ids] - first.logprobs).max())

    def close(self) -> None:
        """End it."""
        self._pipe(self._process.stdin).close()
        self._process.wait(_CLOSING_S)
        self._pipe(self._process.stdout).close()

    def _tell(self, order: _Order) -> None:
        pipe = self._pipe(self._process.stdin)
        pipe.write(msgspec.json.encode(order) + b"\n")
        pipe.flush()

    def _read(self, kind: type[Reply]) -> Reply:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            self.close()
            said = self._said.read_text(errors="replace")[-_TOLD:]
            raise UnavailableError(f"{self.name} ended; the last that it said: {said}")
        return msgspec.json.decode(line, type=kind)

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe
