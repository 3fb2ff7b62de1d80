"""A tiny setting whose queries are pieces of its documents."""

import pytest

from bench.attribution.setting import Checkpoint, Document, Query, Setting
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny
from tests.attribution.releases import some_text, trained_adapter

PROMPT, ANSWER = 6, 40  # tokens


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder)


@pytest.fixture(scope="session")
def setting(base: BaseModel) -> Setting:
    """Six documents of three contributors; query q is taken from document 5 - q."""
    texts = [some_text(number, words=12 + number) for number in range(6)]
    rows = base.tokenizer.encode_documents(texts)
    documents = tuple(
        Document(f"d{i}", f"c{(i + 1) % 3}", text, tuple(row))
        for i, (text, row) in enumerate(zip(texts, rows, strict=True))
    )
    queries = tuple(
        Query(f"q{i}", one.tokens[:PROMPT], one.tokens[PROMPT : PROMPT + ANSWER], "held-out")
        for i, one in enumerate(reversed(documents))
    )
    checkpoints = (
        Checkpoint(trained_adapter(base, rows, epochs=1), 1e-2),
        Checkpoint(trained_adapter(base, rows, epochs=4), 5e-3),
    )
    return Setting(base, checkpoints, documents, queries)
