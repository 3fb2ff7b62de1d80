"""What really happens without some of the data: hundreds of adapters, retrained."""

import math
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import groupby, takewhile

import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from bench.attribution.kept import Kept, key_of, training_key
from bench.attribution.setting import Checkpoint, Query
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.frozen import HiddenCache, hidden_cache
from openledger.lm.lora import Adapter, banked
from openledger.training.recipe import Recipe
from openledger.training.rows import Row
from openledger.training.steps.ensemble import Answer, Member, answer_losses, train_members
from openledger.training.steps.trainer import Trainer, batches, learning_rate


class Subsets(msgspec.Struct, frozen=True):
    """Which documents each retraining keeps."""

    kept: np.ndarray  # (S, N) 0 or 1
    losses: np.ndarray  # (seeds, S, Q) mean nats per answer token


class Retraining(msgspec.Struct, frozen=True):
    """Trains adapters by one recipe on parts of the same documents."""

    base: BaseModel
    recipe: Recipe
    documents: tuple[tuple[int, ...], ...]  # token ids
    kept: Kept
    together: int = 8  # adapters in one pass; of small models, more of them are no quicker

    def key(self, chosen: np.ndarray | None, seed: int, part: str = "1/1") -> Digest:
        """What stands for the training on the (N,) chosen documents, or on all."""
        places = np.arange(len(self.documents)) if chosen is None else np.flatnonzero(chosen)
        rows = [self.documents[place] for place in places]
        return training_key(self.base, self.recipe, rows, seed, part)

    def hidden(self) -> HiddenCache:
        """All documents below the first adapted layer."""
        first = self.recipe.shape(self.base.layers).layers[0]
        return hidden_cache(self.kept.folder / "hidden", self.base, first, self.documents)

    def adapters(self, kept: np.ndarray, seed: int) -> list[Adapter]:
        """One adapter for each row of (S, N) `kept`, in the same passes."""
        rows = [Row(place, tokens) for place, tokens in enumerate(self.documents)]
        members = [Member(tuple(np.flatnonzero(one).tolist()), lora_seed(seed)) for one in kept]
        return train_members(self.base, self.recipe, rows, self.hidden(), members)

    def losses(
        self,
        kept: np.ndarray,
        queries: Sequence[Query],
        seeds: Sequence[int],
        tell: Callable[[int], None],
    ) -> Subsets:
        """Retrain without what is not kept, once for each seed; `tell` hears of adapters done."""
        found = np.zeros((len(seeds), len(kept), len(queries)))
        asked = key_of([(query.prompt, query.answer) for query in queries])
        for place, seed in enumerate(seeds):
            for start in range(0, len(kept), self.together):
                some = slice(start, start + self.together)
                found[place, some] = self._losses(kept[some], queries, seed, asked)
                tell(len(kept[some]))
        return Subsets(kept, found)

    def _losses(
        self, kept: np.ndarray, queries: Sequence[Query], seed: int, asked: str
    ) -> np.ndarray:
        """(S, Q), of which only what was never asked is done."""
        keys = [self.key(one, seed) for one in kept]
        known = [self.kept.losses(key, asked) for key in keys]
        missing = [place for place, losses in enumerate(known) if losses is None]
        if missing:
            adapters = self._made([keys[place] for place in missing], kept[missing], seed)
            losses = losses_of(self.base, adapters, queries)
            for place, row in zip(missing, losses, strict=True):
                self.kept.keep_losses(keys[place], asked, row)
                known[place] = row
        return np.array(known)

    def _made(self, keys: Sequence[Digest], kept: np.ndarray, seed: int) -> list[Adapter]:
        known = [self.kept.adapter(key, self.base) for key in keys]
        missing = [place for place, adapter in enumerate(known) if adapter is None]
        if missing:
            for place, adapter in zip(missing, self.adapters(kept[missing], seed), strict=True):
                self.kept.keep_adapter(keys[place], adapter, self.base)
                known[place] = adapter
        return [adapter for adapter in known if adapter is not None]


def trajectory(retraining: Retraining, seed: int, count: int) -> tuple[Checkpoint, ...]:
    """The adapter of all documents after each of `count` equal parts of its training."""
    base, recipe = retraining.base, retraining.recipe
    plan = batches([len(tokens) for tokens in retraining.documents], recipe, lora_seed(seed))
    ends = sorted({math.ceil(len(plan) * part / count) for part in range(1, count + 1)})
    keys = [retraining.key(None, seed, f"{end}/{len(plan)}") for end in ends]
    rates = [learning_rate(recipe, end - 1, len(plan)) for end in ends]
    known = [retraining.kept.adapter(key, base) for key in keys]
    adapters = [adapter for adapter in known if adapter is not None]
    if len(adapters) < len(ends):
        adapters = [*_trained(retraining, lora_seed(seed), plan, ends)]
        for key, adapter in zip(keys, adapters, strict=True):
            retraining.kept.keep_adapter(key, adapter, base)
    return tuple(map(Checkpoint, adapters, rates))


def _trained(
    retraining: Retraining, seed: bytes, plan: Sequence[Sequence[int]], ends: Sequence[int]
) -> Iterator[Adapter]:
    """The adapter after each of these numbers of steps."""
    rows = [Row(place, tokens) for place, tokens in enumerate(retraining.documents)]
    cache = retraining.hidden()
    trainer = Trainer(retraining.base, retraining.recipe, seed, len(plan))
    with trainer.attached():
        for step, places in enumerate(plan):
            trainer.backward([rows[place] for place in places], cache.padded(places))
            trainer.hold(step)
            trainer.update(step)
            if step + 1 in ends:
                yield trainer.snapshot()


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
    """Answers that an adapter gives, sampled at temperature 1, up to where a document would end.

    Prompts of one length that follow each other are answered together.
    """
    source = torch.Generator().manual_seed(seed)
    answers: list[tuple[int, ...]] = []
    with banked(base.model, [adapter]):
        for _, alike in groupby(prompts, len):
            answers += _written(base, torch.tensor([list(one) for one in alike]), tokens, source)
    return answers


def _written(
    base: BaseModel, ids: Tensor, tokens: int, source: torch.Generator
) -> list[tuple[int, ...]]:
    read, said = DynamicCache(), []
    for _ in range(tokens):
        out = base.model(ids, past_key_values=read, use_cache=True, logits_to_keep=1)
        chances = torch.softmax(out.logits[:, -1].float(), -1)
        ids = torch.multinomial(chances, 1, generator=source)
        said.append(ids)
    end = base.tokenizer.end
    return [
        tuple(takewhile(lambda token: token != end, row)) for row in torch.cat(said, 1).tolist()
    ]
