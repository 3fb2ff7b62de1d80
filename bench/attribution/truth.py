"""What really happens without some of the data: hundreds of adapters, retrained."""

import math
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import torch

from bench.attribution.setting import Checkpoint, Query
from openledger.lm.base import BaseModel
from openledger.lm.frozen import hidden_cache
from openledger.lm.lora import Adapter, banked
from openledger.training.recipe import Recipe
from openledger.training.rows import Row
from openledger.training.steps.ensemble import Answer, Member, answer_losses, train_members
from openledger.training.steps.trainer import Trainer, batches, learning_rate

_TOGETHER = 8  # adapters in one pass; more of them are no quicker


class Subsets(msgspec.Struct, frozen=True):
    """Which documents each retraining keeps."""

    kept: np.ndarray  # (S, N) 0 or 1
    losses: np.ndarray  # (seeds, S, Q) mean nats per answer token


class Retraining(msgspec.Struct, frozen=True):
    """Trains adapters by one recipe on parts of the same documents."""

    base: BaseModel
    recipe: Recipe
    documents: tuple[tuple[int, ...], ...]  # token ids

    def adapters(self, kept: np.ndarray, seed: int) -> list[Adapter]:
        """One adapter for each row of (S, N) `kept`."""
        rows = [Row(place, tokens) for place, tokens in enumerate(self.documents)]
        first = self.recipe.shape(self.base.layers).layers[0]
        members = [Member(tuple(np.flatnonzero(one).tolist()), lora_seed(seed)) for one in kept]
        with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder:
            cache = hidden_cache(Path(folder), self.base, first, self.documents)
            return [
                adapter
                for start in range(0, len(members), _TOGETHER)
                for adapter in train_members(
                    self.base, self.recipe, rows, cache, members[start : start + _TOGETHER]
                )
            ]

    def losses(
        self,
        kept: np.ndarray,
        queries: Sequence[Query],
        seeds: Sequence[int],
        tell: Callable[[int], None],
    ) -> Subsets:
        """Retrain without what is not kept, once for each seed; `tell` hears of adapters done."""
        found = np.zeros((len(seeds), len(kept), len(queries)))
        for place, seed in enumerate(seeds):
            for start in range(0, len(kept), _TOGETHER):
                some = slice(start, start + _TOGETHER)
                adapters = self.adapters(kept[some], seed)
                found[place, some] = losses_of(self.base, adapters, queries)
                tell(len(adapters))
        return Subsets(kept, found)


def trajectory(retraining: Retraining, seed: int, count: int) -> tuple[Checkpoint, ...]:
    """The adapter of all documents after each of `count` equal parts of its training."""
    base, recipe = retraining.base, retraining.recipe
    rows = [Row(place, tokens) for place, tokens in enumerate(retraining.documents)]
    plan = batches([len(tokens) for tokens in retraining.documents], recipe, lora_seed(seed))
    ends = {math.ceil(len(plan) * part / count) for part in range(1, count + 1)}
    trainer = Trainer(base, recipe, lora_seed(seed), len(plan))
    kept = []
    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder, trainer.attached():
        first = trainer.split.first
        cache = hidden_cache(Path(folder), base, first, retraining.documents)
        for step, places in enumerate(plan):
            trainer.backward([rows[place] for place in places], cache.padded(places))
            trainer.hold(step)
            trainer.update(step)
            if step + 1 in ends:
                kept.append(Checkpoint(trainer.snapshot(), learning_rate(recipe, step, len(plan))))
    return tuple(kept)


def losses_of(base: BaseModel, adapters: Sequence[Adapter], queries: Sequence[Query]) -> np.ndarray:
    """(K, Q) mean loss of each answer."""
    answers = [Answer(query.prompt + query.answer, len(query.prompt)) for query in queries]
    return answer_losses(base, adapters, answers).numpy()


def lora_seed(seed: int) -> bytes:
    """The seed of one training: initial values and order."""
    return sha256(f"bench lora {seed}".encode()).digest()


def halves(owner: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(S, N) of `count` random halves of the owners: all documents of one go together."""
    stream = np.random.Generator(np.random.Philox(key=seed))
    people = int(owner.max()) + 1
    kept = [np.isin(owner, stream.permutation(people)[: people // 2]) for _ in range(count)]
    return np.array(kept, dtype=np.int8)


def without_each(owner: np.ndarray) -> np.ndarray:
    """(C, N): all documents but those of one owner."""
    return np.array([owner != person for person in range(int(owner.max()) + 1)], dtype=np.int8)


@torch.no_grad()
def written(
    base: BaseModel, adapter: Adapter, prompts: Sequence[Sequence[int]], tokens: int, seed: int
) -> list[tuple[int, ...]]:
    """Answers that an adapter gives to prompts of one length, sampled at temperature 1."""
    source = torch.Generator().manual_seed(seed)
    ids = torch.tensor([list(prompt) for prompt in prompts])
    with banked(base.model, [adapter]):
        for _ in range(tokens):
            chances = torch.softmax(base.model(ids).logits[:, -1].float(), -1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=source)], dim=1)
    start = len(prompts[0])
    return [tuple(row[start:]) for row in ids.tolist()]
