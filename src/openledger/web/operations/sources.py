"""Public corpora that come inside packages, brought into Datanets on behalf of their authors."""

from collections.abc import Callable

import msgspec

from openledger.core.errors import NotFoundError
from openledger.core.ids import did_you_mean
from openledger.datanet.extract import Document
from openledger.datanet.rules import Rules
from openledger.datanet.sources import breton, folk_music, linux_manual, tiny
from openledger.datanet.sources.contributors import SourceContributor, by_contributor
from openledger.datanet.sources.selection import Sizes, estimate_tokens, every_document, pick
from openledger.flows.data.obtain import obtain
from openledger.operations.datanets import BRING, Behalf, Bring, DatanetView, Import, NewDatanet
from openledger.web.operations import datanets
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform

TINY = "tiny"
_PACKAGES = "packages"


class Corpus(msgspec.Struct, frozen=True):
    """A source of documents with named contributors."""

    rules: Rules
    title: str
    read: Callable[[list[bytes]], tuple[SourceContributor, ...]]
    count: Callable[[str], int] = estimate_tokens
    accept: Callable[[Document], bool] = every_document


def _by_bytes(bytes_per_token_percent: int) -> Callable[[str], int]:
    return lambda text: 100 * len(text.encode()) // bytes_per_token_percent


CORPORA = {
    TINY: Corpus(tiny.RULES, "A dozen short tunes", lambda _: tiny.contributors()),
    "folk-music": Corpus(
        folk_music.RULES,
        "Folk music in ABC",
        lambda raw: folk_music.read(raw[0]),
        accept=folk_music.is_sound,
    ),
    "linux-manual": Corpus(
        linux_manual.RULES, "The Linux manual", linux_manual.read, count=_by_bytes(363)
    ),
    "breton": Corpus(
        breton.RULES,
        "French and Breton",
        lambda raw: breton.read(raw[0], raw[1]),
        count=_by_bytes(237),
    ),
}


def bring(platform: Platform, wanted: Bring) -> DatanetView:
    """Found the corpus's Datanet and contribute for its authors; again finds the same.

    Raises:
        NotFoundError: there is no such corpus.
        SourceUnavailableError: its packages are not cached and cannot be fetched here.
    """
    if wanted.source not in CORPORA:
        near = did_you_mean(wanted.source, CORPORA)
        raise NotFoundError(f"there is no corpus {wanted.source!r}{near}")
    corpus = CORPORA[wanted.source]
    rules = corpus.rules
    people = _people(platform, corpus, wanted)  # first: no Datanet on chain for what is not here
    datanets.create(
        platform,
        NewDatanet(
            name=rules.name,
            description=rules.description,
            licences=rules.licences,
            title=corpus.title,
            data_floor_bps=rules.data_floor_bps,
            withdrawal=rules.withdrawal,
            withdrawal_days=rules.withdrawal_days,
        ),
    )
    authors = tuple(Behalf(one.name, one.as_file()) for one in people)
    return datanets.bring_in(platform, Import(rules.name, authors))


def _people(platform: Platform, corpus: Corpus, wanted: Bring) -> tuple[SourceContributor, ...]:
    raw: list[bytes] = []
    if wanted.source != TINY:
        files = obtain(wanted.source, platform.cache / _PACKAGES)
        raw = [path.read_bytes() for path in files.values()]
    everyone = corpus.read(raw)
    if wanted.training_tokens is None:
        return everyone
    sizes = Sizes(wanted.training_tokens, wanted.held_out_tokens, wanted.contributors)
    picked = pick(everyone, sizes, corpus.count, corpus.accept)
    documents = [document for one in picked.training for document in one.documents]
    return by_contributor([*documents, *picked.held_out])


IMPLEMENTED = (Implementation(BRING, bring),)
