"""The catalogue of base models as operations."""

from pathlib import Path

import pytest

from openledger.core.errors import ConflictError, InvalidInputError, NotFoundError
from openledger.lm.base import load_base
from openledger.operations.bases import NewBase, WhichBase
from openledger.operations.operation import Nothing
from openledger.serving.runner import LlamaRunner
from openledger.web.operations import bases
from openledger.wiring.platform import Platform
from tests.lm.families.foreign import write_folder


@pytest.fixture
def given(tmp_path: Path) -> str:
    write_folder(tmp_path / "given", "qwen2")
    return str(tmp_path / "given")


def test_a_base_is_added_listed_and_shown(market: Platform, given: str) -> None:
    assert market.models.base_digest  # makes the tiny one
    added = bases.add(market, NewBase(given, "small", "Apache-2.0", "me"))
    listed = bases.list_all(market, Nothing()).bases
    base = load_base(Path(added.folder), added.digest)
    runner = LlamaRunner(base)

    assert [(one.name, one.is_chosen) for one in listed] == [("small", False), ("tiny", True)]
    assert listed[0] == added == bases.show(market, WhichBase(added.digest))
    assert bases.show(market, WhichBase("tiny")).title == "tiny random Llama, seed 0"
    manifest = base.manifest
    assert (added.weights, added.tokenizer) == (manifest.weights, manifest.tokenizer)
    assert (added.template, added.config) == (manifest.template, manifest.config)
    assert (added.family, added.dtype, added.context) == ("qwen2", "float32", runner.context)
    assert added.kv_token_bytes * runner.block_tokens == runner.block_bytes
    weights = added.parameters + 384 * 64  # the head lies apart
    assert added.serving_bytes == 4 * (weights + added.context * 16)


def test_what_cannot_be_added_is_refused(market: Platform, given: str) -> None:
    for name in ("tiny", "smollm2"):
        with pytest.raises(InvalidInputError, match="comes with the platform"):
            bases.add(market, NewBase(given, name, "MIT", "me"))
    bases.add(market, NewBase(given, "small", "MIT", "me"))

    with pytest.raises(ConflictError, match="another name"):
        bases.add(market, NewBase(given, "small", "Apache-2.0", "me"))
    with pytest.raises(NotFoundError, match="no folder"):
        bases.add(market, NewBase("/no/such/folder", "other", "MIT", "me"))
    with pytest.raises(NotFoundError, match="did you mean small"):
        bases.show(market, WhichBase("smalls"))
