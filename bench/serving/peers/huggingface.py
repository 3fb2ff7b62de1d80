"""`transformers` on the base alone, and the two ways of `peft` to serve several adapters."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.serving.peers.contender import Cell, Cost
from bench.serving.world import World, names, on_peft


class Transformers:
    """`generate` on the base alone."""

    def __init__(self, world: World, precision: str) -> None:
        self.name = f"transformers {precision}"
        self._prompts = world.prompts
        self._model = world.bases[precision].model

    def can(self, cell: Cell) -> bool:
        """Without adapters only."""
        return cell.adapters == 0

    @torch.inference_mode()
    def run(self, cell: Cell, tokens: int) -> Cost:
        """See `Contender`."""
        ids = torch.tensor(self._prompts[: cell.rows])
        started = time.process_time()
        self._model.generate(**_greedily(ids, tokens))
        return Cost(time.process_time() - started, None)


class PeftMixed:
    """`generate` with a mixed batch of adapters."""

    def __init__(self, world: World, precision: str) -> None:
        self.name = f"peft mixed {precision}"
        self.world = world
        self.model = on_peft(world, precision)

    def can(self, cell: Cell) -> bool:
        """With adapters only."""
        return cell.adapters > 0

    @torch.inference_mode()
    def run(self, cell: Cell, tokens: int) -> Cost:
        """See `Contender`."""
        ids = torch.tensor(self.world.prompts[: cell.rows])
        chosen = [str(place) for place in names(cell.adapters, cell.rows)]
        started = time.process_time()
        self.model.generate(**_greedily(ids, tokens), adapter_names=chosen)
        return Cost(time.process_time() - started, None)

    @torch.inference_mode()
    def logits(self, rows: int) -> NDArray[np.float32]:
        """(rows, V) after each prompt, every row with an adapter of its own."""
        ids = torch.tensor(self.world.prompts[:rows])
        chosen = [str(place) for place in names(len(self.world.adapters), rows)]
        found: NDArray[np.float32] = self.model(ids, adapter_names=chosen).logits[:, -1].numpy()
        return found


class PeftSwap:
    """`generate` for each adapter's rows in turn, switched by `set_adapter`."""

    MOST = 8  # adapters: beyond, its time grows with their number, and takes the bench's

    def __init__(self, mixed: PeftMixed, precision: str) -> None:
        self.name = f"peft swap {precision}"
        self._prompts = mixed.world.prompts
        self._model = mixed.model

    def can(self, cell: Cell) -> bool:
        """With a few adapters only."""
        return 0 < cell.adapters <= self.MOST

    @torch.inference_mode()
    def run(self, cell: Cell, tokens: int) -> Cost:
        """See `Contender`."""
        started = time.process_time()
        for place in range(cell.adapters):
            rows = self._prompts[place : cell.rows : cell.adapters]
            self._model.set_adapter(str(place))
            self._model.generate(**_greedily(torch.tensor(rows), tokens))
        return Cost(time.process_time() - started, None)


def _greedily(ids: Tensor, tokens: int) -> dict[str, object]:
    """What `generate` is told of (B, T) prompts."""
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": tokens,
        "do_sample": False,
    }
