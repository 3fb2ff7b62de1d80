"""The embedded engine's arithmetic, without its scheduler."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.serving.peers.contender import Cell, Cost
from bench.serving.world import World, names
from openledger.serving.batch import Chunk, Weighted
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.runner import Arithmetic, LlamaRunner

Mix = tuple[Weighted[PackedAdapter], ...]


class Own:
    """The embedded engine's arithmetic, all sequences in one batch."""

    def __init__(self, world: World, precision: str, folder: Path) -> None:
        """`precision` may be "int8", whose rows are bfloat16."""
        self.name = f"own {precision}"
        is_int8 = precision == "int8"
        base = world.bases["bfloat16" if is_int8 else precision]
        self._runner = LlamaRunner(base, folder / "packed", Arithmetic(is_int8=is_int8))
        self._blocks = -(-world.room_tokens // self._runner.block_tokens)
        self._world = world
        self._runner.prepare(threads=1, blocks=len(world.prompts) * self._blocks)
        self._adapters = [self._runner.read(ref) for ref in world.refs]

    def can(self, cell: Cell) -> bool:
        """All."""
        return cell.rows <= len(self._world.prompts)

    def run(self, cell: Cell, tokens: int) -> Cost:
        """See `Contender`."""
        prompts = self._world.prompts[: cell.rows]
        return self.answer(prompts, self._one_each(cell.rows, cell.adapters), tokens)

    def answer(self, prompts: Sequence[Sequence[int]], mixes: Sequence[Mix], tokens: int) -> Cost:
        """Answer prompts of equal length, each under its own mix."""
        started = time.process_time()
        logits = self._step(prompts, [0] * len(prompts), mixes)
        prefilled = time.process_time()
        for made in range(tokens - 1):
            last = [(int(token),) for token in logits.argmax(-1)]
            logits = self._step(last, [len(prompt) + made for prompt in prompts], mixes)
        ended = time.process_time()
        return Cost(ended - started, (ended - prefilled) / (tokens - 1) * tokens)

    def mean_of(self, places: Sequence[int]) -> Mix:
        """The adapters at these places of the world, in equal parts."""
        return tuple(Weighted(self._adapters[place], 1 / len(places)) for place in places)

    def mix_of(self, weights: Sequence[float]) -> Mix:
        """The first adapters of the world, so much of each."""
        pairs = zip(self._adapters, weights, strict=False)
        return tuple(Weighted(adapter, weight) for adapter, weight in pairs)

    def logits(self, rows: int, mixes: Sequence[Mix] | None = None) -> NDArray[np.float32]:
        """(rows, V) after each prompt; without mixes every row has an adapter of its own."""
        prompts = self._world.prompts[:rows]
        mixes = mixes or self._one_each(rows, len(self._adapters))
        self._step([prompt[:-1] for prompt in prompts], [0] * rows, mixes)
        last = [prompt[-1:] for prompt in prompts]
        return self._step(last, [len(prompt) - 1 for prompt in prompts], mixes)

    def _one_each(self, rows: int, adapters: int) -> list[Mix]:
        return (
            [self.mean_of([place]) for place in names(adapters, rows)] if adapters else [()] * rows
        )

    def _step(
        self, fed: Sequence[Sequence[int]], starts: Sequence[int], mixes: Sequence[Mix]
    ) -> NDArray[np.float32]:
        chunks = []
        for row, (token_ids, start, mix) in enumerate(zip(fed, starts, mixes, strict=True)):
            blocks = tuple(range(row * self._blocks, (row + 1) * self._blocks))
            chunks.append(Chunk(blocks, start, tuple(token_ids), mix, is_last=True))
        return self._runner.run(chunks).logits
