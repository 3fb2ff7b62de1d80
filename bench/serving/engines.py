"""What is compared: each makes so many tokens for a batch of prompts, greedily."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from bench.serving.world import World, names, on_peft
from openledger.serving.batch import Chunk, Weighted
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.runner import Arithmetic, LlamaRunner


class Cell(msgspec.Struct, frozen=True, order=True):
    """One place of the grid."""

    rows: int  # B
    adapters: int  # N different ones; 0: the base alone

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"B{self.rows}N{self.adapters}"


class Cost(msgspec.Struct, frozen=True):
    """CPU time of one run."""

    whole_s: float
    decode_s: float | None  # without the prompts; None: not told apart


class Contender(Protocol):
    """An engine of the bench."""

    @property
    def name(self) -> str: ...

    def can(self, cell: Cell) -> bool:
        """Whether it has a way to serve this cell."""
        ...

    def run(self, cell: Cell, tokens: int) -> Cost:
        """Answer the first prompts with so many tokens each."""
        ...


class Transformers:
    """`generate` on the base alone."""

    def __init__(self, world: World, precision: str) -> None:
        self.name = f"transformers {precision}"
        self._world = world
        self._model = world.bases[precision].model

    def can(self, cell: Cell) -> bool:
        """Without adapters only."""
        return cell.adapters == 0

    @torch.inference_mode()
    def run(self, cell: Cell, tokens: int) -> Cost:
        """See `Contender`."""
        ids = torch.tensor(self._world.prompts[: cell.rows])
        started = time.process_time()
        self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
        )
        return Cost(time.process_time() - started, None)


class Peft:
    """`generate` with a mixed batch of adapters."""

    def __init__(self, world: World, precision: str) -> None:
        self.name = f"peft mixed {precision}"
        self._world = world
        self.model = on_peft(world, precision)

    def can(self, cell: Cell) -> bool:
        """With adapters only."""
        return cell.adapters > 0

    @torch.inference_mode()
    def run(self, cell: Cell, tokens: int) -> Cost:
        """See `Contender`."""
        ids = torch.tensor(self._world.prompts[: cell.rows])
        started = time.process_time()
        self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            adapter_names=[str(place) for place in names(cell.adapters, cell.rows)],
        )
        return Cost(time.process_time() - started, None)

    @torch.inference_mode()
    def logits(self, rows: int) -> NDArray[np.float32]:
        """(rows, V) after each prompt, every row with an adapter of its own."""
        ids = torch.tensor(self._world.prompts[:rows])
        chosen = [str(place) for place in names(len(self._world.adapters), rows)]
        found: NDArray[np.float32] = self.model(ids, adapter_names=chosen).logits[:, -1].numpy()
        return found


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
        started = time.process_time()
        logits = self._step(prompts, [0] * cell.rows, cell.adapters)
        prefilled = time.process_time()
        for made in range(tokens - 1):
            last = [(int(token),) for token in logits.argmax(-1)]
            logits = self._step(last, [len(p) + made for p in prompts], cell.adapters)
        ended = time.process_time()
        return Cost(ended - started, (ended - prefilled) / (tokens - 1) * tokens)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """(rows, V) after each prompt, every row with an adapter of its own."""
        prompts = self._world.prompts[:rows]
        self._step([prompt[:-1] for prompt in prompts], [0] * rows, len(self._adapters))
        last = [prompt[-1:] for prompt in prompts]
        return self._step(last, [len(prompt) - 1 for prompt in prompts], len(self._adapters))

    def _step(
        self, fed: Sequence[tuple[int, ...]], starts: Sequence[int], adapters: int
    ) -> NDArray[np.float32]:
        chunks: list[Chunk[PackedAdapter]] = []
        for row, (token_ids, start) in enumerate(zip(fed, starts, strict=True)):
            blocks = tuple(range(row * self._blocks, (row + 1) * self._blocks))
            mix = (Weighted(self._adapters[row % adapters], 1.0),) if adapters else ()
            chunks.append(Chunk(blocks, start, token_ids, mix, is_last=True))
        return self._runner.run(chunks).logits
