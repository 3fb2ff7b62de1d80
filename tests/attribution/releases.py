"""Small adapters, texts and releases on the tiny base, for the tests of this room."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch

from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.release import Recipe, TrainingExample
from openledger.core.types import PARTS_PER_BILLION, Account, Digest
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraHost, LoraPair, LoraShape, MixMember, random_adapter
from openledger.settlement.shares import ClusterScore, Gain, MemberScores, Segment

ADAPTER = Digest("a" * 64)
EARLY = Digest("e" * 64)
SEED = Digest("5" * 64)
RECIPE = Recipe(ADAPTER, EARLY, SEED)
SHAPE = LoraShape(4, 8, (2, 3))


def some_adapter(base: BaseModel, seed: int = 0, shape: LoraShape = SHAPE) -> Adapter:
    """As after some training: B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    fresh = random_adapter(base.model, base.digest, shape, generator)
    pairs = {
        site: LoraPair(pair.a, 0.1 * torch.randn(pair.b.shape, generator=generator))
        for site, pair in fresh.pairs.items()
    }
    return Adapter(shape, base.digest, pairs)


def some_model(base: BaseModel, seed: int = 0) -> ProbedModel:
    return ProbedModel(base, some_adapter(base, seed))


def some_checkpoints(base: BaseModel) -> Checkpoints:
    return Checkpoints(early=some_model(base, 1), final=some_model(base))


def alone(model: ProbedModel) -> Checkpoints:
    """Of a training so short that its first quarter is all of it."""
    return Checkpoints(early=model, final=model)


def stated(gain: Gain, clusters: tuple[ClusterScore, ...]) -> MemberScores:
    """An answer of one segment, which one release alone gave."""
    segment = Segment(1, gain, SEED, clusters)
    return MemberScores(1, PARTS_PER_BILLION, gain.over_base_micronats, None, (segment,))


def account(number: int) -> Account:
    return Account(f"0x{number:040x}")


def some_text(number: int, words: int = 24) -> str:
    """Words that no other number's text has in this order."""
    stream = np.random.Generator(np.random.Philox(key=number))
    letters = "abcdefgABCDEFG|"
    return " ".join(
        "".join(letters[i] for i in stream.integers(len(letters), size=4)) for _ in range(words)
    )


def examples_of(
    base: BaseModel, texts: Sequence[str], accounts: Sequence[int]
) -> list[TrainingExample]:
    """One document a text."""
    rows = base.tokenizer.encode_documents(texts)
    return [
        TrainingExample(
            Digest(sha256(text.encode()).hexdigest()), i, account(owner), text, (tuple(row),)
        )
        for i, (text, owner, row) in enumerate(zip(texts, accounts, rows, strict=True))
    ]


def trained_adapter(
    base: BaseModel, rows: Sequence[Sequence[int]], epochs: int = 25, seed: int = 0
) -> Adapter:
    """A short plain training: each step sees one row, in the same order for every subset."""
    adapter = random_adapter(base.model, base.digest, SHAPE, torch.Generator().manual_seed(seed))
    factors = [factor.requires_grad_() for pair in adapter.pairs.values() for factor in _both(pair)]
    optimiser = torch.optim.AdamW(factors, lr=1e-2, weight_decay=0.0)
    host = LoraHost(base.model, base.digest)
    host.add(ADAPTER, adapter)
    with host.mixed([MixMember(ADAPTER)]) as model:
        for _ in range(epochs):
            for row in rows:
                logits = model(torch.tensor([list(row)])).logits[0, :-1]
                loss = torch.nn.functional.cross_entropy(logits, torch.tensor(list(row[1:])))
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
    host.close()
    for factor in factors:
        factor.requires_grad_(False)
    return adapter


def _both(pair: LoraPair) -> tuple[torch.Tensor, torch.Tensor]:
    return pair.a, pair.b
