"""Text whose words might stand in any other order says nothing, and is paid nothing."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from openledger.attribution.attribute import Attributor
from openledger.attribution.credit.sense import says_nothing
from openledger.attribution.influence.gradients import ProbedModel
from openledger.attribution.release import build
from openledger.core.types import PARTS_PER_BILLION, Account
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny
from openledger.settlement.shares import ClusterScore, CreditPart, Gain, combine
from tests.attribution.releases import (
    RECIPE,
    account,
    alone,
    examples_of,
    some_adapter,
    stated,
    trained_adapter,
)

_WORDS = {
    "who": ["the cat", "a dog", "the old man", "my sister", "the baker", "a sailor"],
    "does": ["reads", "paints", "finds", "carries", "forgets", "mends"],
    "what": ["the red door", "a long rope", "some bread", "the silver coin", "a small boat"],
}
RANDOM, STUFFED = 7, 8


def some_prose(number: int, sentences: int = 8) -> str:
    stream = np.random.Generator(np.random.Philox(key=number))
    drawn = [
        " ".join(str(stream.choice(words)) for words in _WORDS.values()) for _ in range(sentences)
    ]
    return ". ".join(drawn) + "."


def _stream(number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=number))


def noise(vocabulary: int, number: int) -> list[int]:
    return [int(token) for token in _stream(number).integers(3, vocabulary, 96)]


def heap(base: BaseModel, number: int) -> list[int]:
    """The words of one subject, in changing order."""
    words = [
        base.tokenizer.encode(f" {word}") for word in ("bread", "coin", "rope", "boat", "door")
    ]
    return [int(t) for i in _stream(number).integers(len(words), size=24) for t in words[i]]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """The tiny base, after it has learnt to read such prose."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    base = load_base(folder)
    rows = [base.tokenizer.encode(some_prose(1_000 + i)) for i in range(160)]
    base.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(base.model.parameters(), lr=3e-3)
    for start in range(0, 4 * len(rows), 8):
        some = [rows[i % len(rows)] for i in range(start, start + 8)]
        ids = torch.tensor([row[:96] for row in some])
        logits = base.model(ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    base.model.requires_grad_(False)
    return base


def judged(base: BaseModel, documents: Sequence[Sequence[Sequence[int]]]) -> list[bool]:
    return says_nothing(ProbedModel(base, some_adapter(base)), documents, _stream(0))


def test_prose_says_something_and_noise_does_not(reader: BaseModel) -> None:
    prose = [[reader.tokenizer.encode(some_prose(i))] for i in range(6)]
    empty = [[noise(300, i)] for i in range(3)] + [[heap(reader, i)] for i in range(3)]

    assert judged(reader, [*prose, *empty]) == [False] * 6 + [True] * 6


def test_a_document_is_judged_by_all_of_its_rows(reader: BaseModel) -> None:
    prose = [reader.tokenizer.encode(some_prose(i)) for i in range(12)]
    mostly_noise = [prose[0], *(noise(300, i) for i in range(5))]

    found = judged(reader, [*([row] for row in prose), mostly_noise])

    assert found == [False] * 12 + [True]


def test_a_text_too_short_to_judge_is_not_judged(reader: BaseModel) -> None:
    prose = [[reader.tokenizer.encode(some_prose(i))] for i in range(4)]

    some = heap(reader, 1)

    assert judged(reader, [*prose, [some[:8]]]) == [False] * 5
    assert judged(reader, [*prose, [some]])[-1]


def test_a_base_that_cannot_read_judges_nobody(base: BaseModel) -> None:
    prose = [[base.tokenizer.encode(some_prose(i))] for i in range(4)]

    assert judged(base, [*prose, [noise(300, 1)]]) == [False] * 5


def test_random_and_stuffed_text_earns_nothing(tmp_path: Path, reader: BaseModel) -> None:
    """Through build and attribution; without the rule both would be paid."""
    tokenizer = reader.tokenizer
    texts = [some_prose(i) for i in range(6)]
    empty = [tokenizer.decode(noise(300, 1)), tokenizer.decode(heap(reader, 1))]
    owners = [*[i % 3 + 1 for i in range(6)], RANDOM, STUFFED]
    rows = tokenizer.encode_documents([*texts, *empty])
    models = alone(ProbedModel(reader, trained_adapter(reader, rows, epochs=4)))
    examples = examples_of(reader, [*texts, *empty], owners)
    state = build(tmp_path / "state", models, examples, RECIPE)
    documents = tuple(
        msgspec.structs.replace(entry, parts=()) for entry in state.manifest.documents
    )
    naive = msgspec.structs.replace(
        state, manifest=msgspec.structs.replace(state.manifest, documents=documents)
    )

    nothing = (CreditPart(None, 1),)
    assert [one.parts == nothing for one in state.manifest.documents] == [False] * 6 + [True] * 2
    for owner, answer in zip((RANDOM, STUFFED), rows[6:], strict=True):
        clusters, unjudged = (
            Attributor(one, models).influence(answer[:12], answer[12:]) for one in (state, naive)
        )
        assert account(owner) not in paid(clusters)
        assert account(owner) in paid(unjudged)


def paid(clusters: tuple[ClusterScore, ...]) -> set[Account]:
    full = Gain(1_000_000, 1_000_000, PARTS_PER_BILLION, 1)
    return {share.account for share in combine([stated(full, clusters)]).shares}
