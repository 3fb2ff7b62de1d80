from pathlib import Path

import pytest

from openledger.core.errors import DigestMismatchError, NotFoundError
from openledger.lm.families.catalogue import entries, read_entry
from openledger.lm.families.ingest import Told, ingest
from tests.lm.families.foreign import KINDS, write_folder


def test_entries_stand_by_name_and_tell_what_their_files_tell(tmp_path: Path) -> None:
    made = {}
    for kind in reversed(KINDS):
        model = write_folder(tmp_path / kind, kind)
        made[kind] = ingest(tmp_path / kind, Told(kind, "MIT", "me"), tmp_path / "bases"), model
    (tmp_path / "bases" / ".added-half").mkdir()
    found = list(entries(tmp_path / "bases"))

    assert [one.family for one in found] == [one.manifest.name for one in found] == list(KINDS)
    assert [one.context for one in found] == [128, 96, 128, 128]
    for one in found:
        digest, model = made[one.family]
        assert one.digest == digest == one.folder.name
        assert one.parameters == sum(p.numel() for p in model.parameters())
        tied = 384 * 64 if one.family == "qwen2" else 0
        assert one.serving_parameters == one.parameters + tied
        assert 4 * one.parameters < one.stored_bytes < 4 * one.parameters + 10_000


def test_a_damaged_configuration_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "given", "llama")
    digest = ingest(tmp_path / "given", Told("one", "MIT", "me"), tmp_path / "bases")
    (tmp_path / "bases" / digest / "config.json").write_bytes(b"\xff")

    with pytest.raises(DigestMismatchError, match="bring it in again"):
        list(entries(tmp_path / "bases"))


def test_an_empty_home_has_none(tmp_path: Path) -> None:
    assert list(entries(tmp_path / "none")) == []
    with pytest.raises(NotFoundError):
        read_entry(tmp_path)
