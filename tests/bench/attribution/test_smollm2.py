"""What is drawn for the suites on the real base, with another tokenizer and made-up people."""

import numpy as np

from bench.attribution.smollm2 import (
    ANSWER_TOKENS,
    CONTRIBUTORS,
    HELD_OUT,
    RECIPE,
    TRAINING,
    draw_tunes,
    passages,
)
from openledger.datanet.extract import Document
from openledger.datanet.sources.contributors import SourceContributor
from openledger.lm.tokenizer import Tokenizer
from openledger.training.recipe import Recipe
from openledger.training.steps.trainer import batches

BAR = "GABc dBAG|"


def tune(person: int, number: int, key: str, bars: int = 12) -> Document:
    title = f"Tune {number} of {person}"
    text = f"X:1\nT:{title}\nM:4/4\nL:1/8\nK:G\n{BAR * bars}"
    return Document(title, text, "CC0-1.0", key, f"{person}#{number}", f"person {person}")


def people(count: int, tunes: int) -> list[SourceContributor]:
    """Of each one's tunes, one stands under a key that everybody has."""
    return [
        SourceContributor(
            f"person {person}",
            tuple(
                tune(person, number, f"{person} {number}" if number else "common")
                for number in range(tunes)
            ),
        )
        for person in range(count)
    ]


def stream(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def test_sixteen_bring_ten_tunes_each_and_no_tune_stands_twice(tokenizer: Tokenizer) -> None:
    crowd = [*people(18, TRAINING + HELD_OUT + 1), SourceContributor("few", (tune(99, 0, "few"),))]

    documents, held_out = draw_tunes(crowd, tokenizer, stream(1))

    owners = [document.contributor for document in documents]
    assert len(documents) == CONTRIBUTORS * TRAINING
    assert {owners.count(name) for name in owners} == {TRAINING}
    assert "few" not in owners
    assert len(held_out) == CONTRIBUTORS * HELD_OUT
    keys = {one.origin: one.key for person in crowd for one in person.documents}
    assert [keys[document.id] for document in documents].count("common") <= 1
    trained = {document.text for document in documents}
    for one in held_out:
        assert tokenizer.decode(one.prompt + one.answer) not in trained
        assert tokenizer.decode(one.prompt).endswith("\nK:G\n")
        assert tokenizer.decode(one.answer).startswith(BAR)
        assert len(one.answer) <= ANSWER_TOKENS


def test_tunes_too_short_or_with_broken_bars_are_passed_over(tokenizer: Tokenizer) -> None:
    bad = [
        SourceContributor(
            one.name,
            (
                tune(900 + i, 0, f"short {i}", bars=1),
                Document("odd", one.documents[1].text + "GAB|" * 8, "CC0-1.0", f"odd {i}", "odd"),
                *one.documents,
            ),
        )
        for i, one in enumerate(people(16, TRAINING + HELD_OUT + 1))
    ]

    documents, _ = draw_tunes(bad, tokenizer, stream(2))

    assert len(documents) == CONTRIBUTORS * TRAINING
    refused = {"odd", *(f"{900 + i}#0" for i in range(16))}
    assert not refused & {document.id for document in documents}


def test_a_seed_draws_the_same_tunes_and_another_others(tokenizer: Tokenizer) -> None:
    crowd = people(18, 2 * TRAINING)

    assert draw_tunes(crowd, tokenizer, stream(1)) == draw_tunes(crowd, tokenizer, stream(1))
    assert draw_tunes(crowd, tokenizer, stream(1)) != draw_tunes(crowd, tokenizer, stream(2))


def test_passages_are_cut_out_of_so_many_texts_of_each_kind(tokenizer: Tokenizer) -> None:
    long = [f"{number} " + BAR * 40 for number in range(12)]
    other = [f"{number} " + "zfe " * 300 for number in range(12)]

    found = passages(tokenizer, (["too short", *long], other), stream(3))

    texts = [tokenizer.decode(one.prompt + one.answer) for one in found]
    assert ["GABc" in text for text in texts] == [True] * 8 + [False] * 8
    assert {(len(one.prompt), len(one.answer)) for one in found} == {(24, 72)}


def test_the_recipe_is_everybodys_and_takes_eighty_steps() -> None:
    assert Recipe() == RECIPE
    assert len(batches([137] * CONTRIBUTORS * TRAINING, RECIPE, b"seed")) == 80
