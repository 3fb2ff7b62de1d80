"""Corpora come whole, in part, or with a reason why not."""

from hashlib import sha256

import msgspec
import pytest

from openledger.core.errors import NotFoundError, UnavailableError
from openledger.core.types import Digest
from openledger.datanet.extract import Document
from openledger.datanet.sources import tiny
from openledger.datanet.sources.contributors import SourceContributor
from openledger.flows.data.obtain import SOURCES, Package, Registry, Source
from openledger.operations.datanets import Bring
from openledger.storage.records.data import datanets
from openledger.web.operations import sources
from openledger.web.operations.sources import Corpus
from openledger.wiring.platform import Platform

ARCHIVE = b"an archive"


def pinned(content: bytes) -> Source:
    digest = Digest(sha256(content).hexdigest())
    return Source("a sample", (Package("sample", "1", "sample.whl", digest, Registry.DEBIAN),))


def unpack(raw: list[bytes]) -> tuple[SourceContributor, ...]:
    """One text of each of the tiny corpus's people, in other words."""
    assert raw == [ARCHIVE]
    return tuple(
        SourceContributor(one.name, tuple(_retold(document) for document in one.documents))
        for one in tiny.contributors()
    )


def _retold(document: Document) -> Document:
    return msgspec.structs.replace(document, text=f"Retold here: {document.text.lower()}")


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> str:
    rules = msgspec.structs.replace(tiny.RULES, name="sample")
    monkeypatch.setitem(sources.CORPORA, "sample", Corpus(rules, "A sample", unpack))
    monkeypatch.setitem(SOURCES, "sample", pinned(ARCHIVE))
    return "sample"


def test_a_corpus_that_does_not_exist_is_named_with_the_nearest(market: Platform) -> None:
    with pytest.raises(NotFoundError, match="folk-music"):
        sources.bring(market, Bring("folk-musik"))


def test_what_cannot_be_fetched_leaves_no_datanet(
    market: Platform, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match="left out"):
        sources.bring(market, Bring(sample))
    with market.database.read() as transaction, pytest.raises(NotFoundError):
        datanets.by_slug(transaction, sample)


def test_a_part_of_a_packaged_corpus_is_brought_in_once(market: Platform, sample: str) -> None:
    folder = market.cache / "packages"
    folder.mkdir(parents=True)
    (folder / "sample.whl").write_bytes(ARCHIVE)
    part = sources.bring(market, Bring(sample, training_tokens=200, held_out_tokens=100))

    assert part.name == sample
    assert part.contributions
    assert all(one.on_behalf and one.state == "approved" for one in part.contributions)
    assert sources.bring(market, Bring(sample, 200, 100)) == part


def test_manuals_are_counted_in_tokens_by_their_bytes() -> None:
    assert sources.CORPORA["linux-manual"].count("x" * 363) == 100
