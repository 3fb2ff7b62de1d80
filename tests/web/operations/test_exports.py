"""Attribution states at rest: sealed, and nobody opens one without leaving his name."""

from pathlib import Path

import pytest

from openledger.attribution.state import FACTORS, MANIFEST, ROWS, load_state
from openledger.core.errors import ConflictError, InvalidInputError, OpenLedgerError
from openledger.lm.base import digest_file
from openledger.operations.models import NewExport
from openledger.web.operations import exports
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.audited import Files

pytestmark = pytest.mark.slow


def test_the_state_at_rest_is_sealed_and_the_export_is_what_it_seals(audited: Files) -> None:
    for name in (MANIFEST, FACTORS, ROWS):
        assert (audited.state / name).read_bytes()[:4] == b"OLV1"
        assert digest_file(audited.state / name) != digest_file(
            audited.export / "attribution" / name
        )
    with pytest.raises(OpenLedgerError):
        load_state(audited.state)
    assert load_state(audited.export / "attribution").training_size > 0
    assert [p.name for p in audited.state.parent.iterdir() if "unsealed" in p.name] == []


def test_every_opening_is_listed_with_who_and_what_for(audited: Files) -> None:
    listed = audited.openings.openings
    purposes = [one.purpose for one in listed]

    # Once for scoring alone, however many calls, and once for a mix; for two exports; for three
    # bundles, of a free call none.
    assert sorted(purposes) == [*["bundle"] * 3, *["export"] * 2, *["scoring"] * 2]
    assert {one.who for one in listed if one.purpose == "bundle"} == {"dev"}
    assert {one.subject for one in listed if one.purpose == "export"} == {
        str(audited.export),
        str(audited.texts),
    }
    assert [one.opened_at for one in listed] == sorted(one.opened_at for one in listed)


def test_a_folder_that_is_not_empty_is_not_exported_into(market: Platform, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"x")

    with pytest.raises(ConflictError, match="not an empty"):
        exports.export(market, NewExport(fair.MODEL, str(tmp_path / "there")))
    with pytest.raises(InvalidInputError, match="absolute"):
        exports.export(market, NewExport(fair.MODEL, "there"))
