"""Scores for data that somebody else brings: trained by their recipe, asked by their queries.

Texts longer than the recipe's `max_length` are cut there. Each text is closed by the end token; a
query's prompt and response are put together as they are. The base is a folder as this project
writes it, or as `transformers` does (safetensors, embedding and head tied).
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file

from bench.attribution import measures, ours
from bench.attribution.kept import Kept
from bench.attribution.setting import Document, Query, Setting
from bench.attribution.truth import Retraining, trajectory
from openledger.core.errors import InvalidInputError
from openledger.core.types import PARTS_PER_BILLION, Digest
from openledger.lm.base import (
    CONFIG,
    DTYPES,
    MANIFEST,
    TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    BaseModel,
    BaseParts,
    Provenance,
    digest_file,
    load_base,
    write_base,
)
from openledger.lm.lora import TARGETS
from openledger.training.recipe import Precision, Recipe

Line = TypeVar("Line", bound=msgspec.Struct)

_CHECKPOINTS = 4  # of which the first and the last are scored at


class _Example(msgspec.Struct, frozen=True):
    id: str
    contributor: str
    text: str


class _Question(msgspec.Struct, frozen=True):
    id: str
    prompt: str
    response: str


class _Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As it is written for training scripts."""

    rank: int
    alpha: int
    lr: float
    epochs: int
    batch_size: int
    max_length: int
    last_layers: int
    seed: int = 0
    warmup: float = 0  # steps; below 1 a part of all steps
    target_modules: tuple[str, ...] = TARGETS
    precision: Literal["bfloat16", "bf16", "float32", "fp32"] = "float32"


class Answered(msgspec.Struct, frozen=True):
    """What is said of one query."""

    scores: dict[str, float]  # by contributor; above zero, their data made the response likelier
    shares_ppb: dict[str, int]  # by contributor; with nobody they sum to 1_000_000_000
    nobody_ppb: int


def write_scores(arguments: Sequence[str]) -> int:
    """Read, train, score, write."""
    parser = argparse.ArgumentParser(prog="bench.attribution score", description=__doc__)
    for name in ("train", "queries", "recipe", "base", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    wanted = msgspec.json.decode(chosen.recipe.read_bytes(), type=_Recipe)
    examples = _lines(chosen.train, _Example)
    questions = _lines(chosen.queries, _Question)
    torch.set_num_threads(1)  # the same sums in the same order
    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as scratch:
        base = _base(chosen.base, Path(scratch) / "base", _precision(wanted))
        kept = Kept(Path(scratch) / "kept")  # of this run alone
        found = score(base, wanted, examples, questions, kept)
    chosen.out.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return 0


def score(
    base: BaseModel,
    wanted: _Recipe,
    examples: Sequence[_Example],
    questions: Sequence[_Question],
    kept: Kept,
) -> dict[str, Answered]:
    """Train on the examples by the recipe and score every question, by its id.

    Raises:
        InvalidInputError: an empty text or response, or a recipe out of range.
    """
    documents = _documents(base, examples, wanted.max_length)
    recipe = _as_ours(wanted, len(documents))
    retraining = Retraining(base, recipe, tuple(one.tokens for one in documents), kept)
    checkpoints = trajectory(retraining, wanted.seed, _CHECKPOINTS)
    setting = Setting(base, checkpoints, documents, _queries(base, questions))
    exact = ours.ekfac(setting, [checkpoints[0].adapter, checkpoints[-1].adapter])
    scores = measures.by_contributor(exact, setting.owner)  # (C, Q)
    paid = ours.released(setting)
    return {
        query.id: _answered(setting.contributors, scores[:, place], paid, place)
        for place, query in enumerate(setting.queries)
    }


def _answered(people: Sequence[str], scores: np.ndarray, paid: ours.Paid, place: int) -> Answered:
    ppb = {
        name: round(float(part) * PARTS_PER_BILLION)
        for name, part in zip(people, paid.shares[:, place], strict=True)
    }
    return Answered(
        scores={name: float(one) for name, one in zip(people, scores, strict=True)},
        shares_ppb=ppb,
        nobody_ppb=PARTS_PER_BILLION - sum(ppb.values()),
    )


def _lines(path: Path, kind: type[Line]) -> list[Line]:
    rows = [row for row in path.read_bytes().splitlines() if row.strip()]
    try:
        return [msgspec.json.decode(row, type=kind) for row in rows]
    except msgspec.MsgspecError as error:
        raise InvalidInputError(f"{path} is not as it should be: {error}") from error


def _documents(
    base: BaseModel, examples: Sequence[_Example], max_length: int
) -> tuple[Document, ...]:
    rows = base.tokenizer.encode_documents([one.text for one in examples])
    documents = tuple(
        Document(one.id, one.contributor, one.text, tuple(row[:max_length]))
        for one, row in zip(examples, rows, strict=True)
    )
    empty = [one.id for one in documents if len(one.tokens) < 2]
    if empty or not documents:
        raise InvalidInputError(f"nothing to train on in {empty or 'the file of examples'}")
    return documents


def _queries(base: BaseModel, questions: Sequence[_Question]) -> tuple[Query, ...]:
    encode = base.tokenizer.encode
    queries = tuple(
        # An empty prompt still has something before the response: the end of another text.
        Query(
            one.id,
            tuple(encode(one.prompt)) or (base.tokenizer.end,),
            tuple(encode(one.response)),
            "",
        )
        for one in questions
    )
    if empty := [one.id for one in queries if not one.answer]:
        raise InvalidInputError(f"the response of query {empty[0]} is empty")
    return queries


def _precision(wanted: _Recipe) -> Precision:
    return "bfloat16" if wanted.precision in ("bfloat16", "bf16") else "float32"


def _as_ours(wanted: _Recipe, rows: int) -> Recipe:
    steps = wanted.epochs * math.ceil(rows / wanted.batch_size)
    warmup = wanted.warmup * steps if wanted.warmup < 1 else wanted.warmup
    return Recipe(
        rank=wanted.rank,
        alpha=wanted.alpha,
        last_layers=wanted.last_layers,
        target_modules=wanted.target_modules,
        learning_rate_micro=round(wanted.lr * 1_000_000),
        epochs=wanted.epochs,
        batch_size=wanted.batch_size,
        max_length=wanted.max_length,
        warmup_steps=round(warmup),
        precision=_precision(wanted),
        anchor_weight_hundredths=0,
    )


def _base(folder: Path, scratch: Path, precision: Precision) -> BaseModel:
    """Load a base folder, of ours or of transformers'."""
    if (folder / MANIFEST).exists():
        return load_base(folder, dtype=DTYPES[precision])
    weights = load_file(folder / WEIGHTS)
    weights.pop("lm_head.weight", None)  # tied to the embedding, or refused below
    config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=dict[str, object])
    if not config.get("tie_word_embeddings"):
        raise InvalidInputError(
            f"the base in {folder} has a head of its own; give one that is tied"
        )
    template = folder / TEMPLATE
    provenance = Provenance(
        name=folder.name,
        licence="unknown",
        owner="unknown",
        source="a folder of transformers",
        source_digest=Digest(digest_file(folder / WEIGHTS)),
    )
    parts = BaseParts(
        provenance=provenance,
        weights=weights,
        config=config,
        tokenizer_json=(folder / TOKENIZER).read_text("utf-8"),
        template=template.read_text("utf-8") if template.exists() else "",
        dtype=str(next(iter(weights.values())).dtype).removeprefix("torch."),
    )
    write_base(scratch, parts)
    return load_base(scratch, dtype=DTYPES[precision])
