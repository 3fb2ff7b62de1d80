"""Whatever stands in a foreign folder: it becomes a base, or it is refused in one sentence."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.lm.base import verify_base
from openledger.lm.families.config import ends_of, fields_of, read_config
from openledger.lm.families.ingest import Told, ingest
from tests.lm.families import foreign

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
ROTARY = ("rope_type", "type", "factor", "rope_theta", "low_freq_factor", "truncate", "mscale")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 300)
    | st.sampled_from([10**9, 2**63, -(2**63), 1e300, 0.5, 1e-9])
    | st.sampled_from(["llama", "linear", "llama3", "yarn", "dynamic", "silu", "", "\x00"])
)
VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.sampled_from(ROTARY), SCALARS, max_size=5)
)
NAMES = sorted(
    {name for kind in foreign.KINDS for name in foreign.fields_of(kind)}
    | {"rope_scaling", "rope_parameters", "partial_rotary_factor", "layer_types", "auto_map"}
)


@settings(max_examples=200)
@given(kind=st.sampled_from(foreign.KINDS), changes=st.dictionaries(st.sampled_from(NAMES), VALUES))
@example("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 0.5}})
@example("qwen2", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}})
def test_a_configuration_is_read_or_refused(kind: str, changes: dict[str, object]) -> None:
    content = json.dumps(foreign.fields_of(kind) | changes).encode()
    try:
        ends_of(content)
        config = read_config(content)
    except InvalidInputError:
        return
    again = read_config(json.dumps(fields_of(config)).encode())

    assert fields_of(again) == fields_of(config)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "qwen3"
    foreign.write_folder(folder, "qwen3")
    return folder


@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_folder_is_a_base_or_refused(
    data: st.DataObject, good: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch = tmp_path_factory.mktemp("damaged")
    shutil.copytree(good, scratch / "given")
    path = scratch / "given" / data.draw(st.sampled_from(FILES))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, min(len(content), 4_000) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at : at + data.draw(st.integers(1, 64))]
    path.write_bytes(content)
    try:
        digest = ingest(scratch / "given", Told("mine", "MIT", "me"), scratch / "bases")
    except (InvalidInputError, NotFoundError):
        assert not list((scratch / "bases").glob("*"))
    else:
        verify_base(scratch / "bases" / digest, digest)
    finally:
        shutil.rmtree(scratch)
