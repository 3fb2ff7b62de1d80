"""A home works with the base that its settings name."""

from pathlib import Path

import msgspec
import pytest

from openledger.core.errors import NotFoundError
from openledger.lm.families.ingest import Told, ingest
from openledger.operations.bases import NewBase
from openledger.storage.home import Home
from openledger.web.operations import bases
from openledger.wiring.bases import base_folder, find_base, known_bases
from openledger.wiring.models import Models
from openledger.wiring.platform import Platform
from tests.lm.families.foreign import write_folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    write_folder(tmp_path / "given", "qwen3")
    home = Home(tmp_path / "home")
    ingest(tmp_path / "given", Told("small", "MIT", "me"), home.models)
    return home


def test_a_base_is_found_by_name_and_by_digest(home: Home, tmp_path: Path) -> None:
    base_folder(home, tmp_path, "tiny")
    known = known_bases(home, tmp_path)

    assert sorted(known) == ["small", "tiny"]
    for name in ("small", known["small"].digest):
        assert base_folder(home, tmp_path, name) == home.models / known["small"].digest
    assert find_base(known, known["tiny"].digest).folder == home.models / "tiny"


def test_an_unknown_base_is_told_with_near_names(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"did you mean small\?.*base add"):
        base_folder(home, tmp_path, "smalll")


def test_the_engine_serves_a_base_that_was_brought_in(market: Platform, tmp_path: Path) -> None:
    write_folder(tmp_path / "given", "mistral")
    added = bases.add(market, NewBase(str(tmp_path / "given"), "small", "MIT", "me"))
    settings = msgspec.structs.replace(
        market.settings, models=msgspec.structs.replace(market.settings.models, base="small")
    )
    object.__setattr__(market, "settings", settings)
    models = Models(market)
    try:
        caps = models.engine.caps
    finally:
        models.close()

    assert (caps.base, caps.context, caps.vocabulary) == (added.digest, 96, 384)
    assert caps.dtype == models.precision
