"""The tiny suite: a small base, sixteen contributors, hundreds of retrainings."""

from pathlib import Path

import msgspec

from bench.attribution.corpus import Datanet, Pages, Size, draw
from bench.attribution.kept import Kept
from bench.attribution.setting import Document
from bench.attribution.small_base import small_base
from bench.attribution.world import Passage, Plan, Retrainings, Texts, World, make
from openledger.lm.tokenizer import Tokenizer
from openledger.training.recipe import Recipe

PROMPT_TOKENS = 20  # of each piece; the others are the answer

RECIPE = Recipe(
    rank=4,
    alpha=8,
    last_layers=3,
    learning_rate_micro=4_000,
    epochs=5,
    batch_size=16,
    max_length=64,
    warmup_steps=5,
    precision="float32",
    anchor_weight_hundredths=0,
)


class Scale(msgspec.Struct, frozen=True):
    """How much is trained and retrained."""

    size: Size = Size()
    base_steps: int = 2_000
    retrainings: Retrainings = Retrainings()


SMOKE = Scale(Size(contributors=3, training=3, held_out=1, outside=2), 10, Retrainings(2, 3, 3, 2))


def world(pages: Pages, cache: Path, seed: int, scale: Scale, kept: Kept) -> World:
    """Draw a Datanet, train on it, and retrain without parts of it."""
    return make(plan(pages, cache, seed, scale), kept)


def plan(pages: Pages, cache: Path, seed: int, scale: Scale) -> Plan:
    """Draw a Datanet."""
    base = small_base(cache, pages, scale.base_steps)
    texts = texts_of(base.tokenizer, draw(pages, base.tokenizer, seed, scale.size))
    return Plan(base, RECIPE, texts, scale.retrainings, f"data seed {seed}", seed)


def texts_of(tokenizer: Tokenizer, datanet: Datanet, prompt_tokens: int = PROMPT_TOKENS) -> Texts:
    """Pieces of one length: those held out and those outside begin with a prompt."""
    held_out = [piece for pieces in datanet.held_out for piece in pieces]
    return Texts(
        documents=tuple(
            Document(f"{name}/{number}", name, tokenizer.decode(piece), piece)
            for name, pieces in zip(datanet.names, datanet.training, strict=True)
            for number, piece in enumerate(pieces)
        ),
        held_out=tuple(Passage(one[:prompt_tokens], one[prompt_tokens:]) for one in held_out),
        outside=tuple(Passage(one[:prompt_tokens], one[prompt_tokens:]) for one in datanet.outside),
        answer_tokens=len(held_out[0]) - prompt_tokens,
    )
