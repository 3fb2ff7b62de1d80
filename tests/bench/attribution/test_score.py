"""Foreign data go in as files and come out as scores and shares."""

import json
import shutil
from pathlib import Path

import pytest

from bench.attribution.__main__ import main
from openledger.core.errors import InvalidInputError
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.base import MANIFEST, BaseModel
from tests.attribution.releases import some_text

RECIPE = {
    "rank": 4,
    "alpha": 8,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "last_layers": 2,
    "lr": 0.01,
    "epochs": 60,
    "batch_size": 2,
    "seed": 3,
    "max_length": 64,
    "warmup": 0.1,
    "precision": "float32",
}


def written(folder: Path, response: str | None = None) -> list[str]:
    """The arguments that score four texts of two people, asked for by their own beginnings."""
    texts = [some_text(number, words=14) for number in range(4)]
    train = [
        {"id": f"t{i}", "contributor": f"person {i % 2}", "text": text}
        for i, text in enumerate(texts)
    ]
    queries = [
        {
            "id": f"q{i}",
            "prompt": text[:10],
            "response": text[10:] if response is None else response,
        }
        for i, text in enumerate(texts)
    ]
    files = {
        "train": "\n".join(map(json.dumps, train)),
        "queries": "\n".join(map(json.dumps, queries)) + "\n\n",
        "recipe": json.dumps(RECIPE),
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [part for name in files for part in (f"--{name}", str(folder / name))]


@pytest.mark.parametrize("is_foreign", [False, True], ids=["ours", "transformers"])
def test_foreign_data_are_scored(base: BaseModel, tmp_path: Path, is_foreign: bool) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base.folder, folder)
    if is_foreign:
        (folder / MANIFEST).unlink()
        config = json.loads((folder / "config.json").read_bytes()) | {"tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    out = tmp_path / "scores.json"

    assert main(["score", *written(tmp_path), "--base", str(folder), "--out", str(out)]) == 0
    found = json.loads(out.read_bytes())

    assert list(found) == ["q0", "q1", "q2", "q3"]
    for number, one in enumerate(found.values()):
        mine, other = f"person {number % 2}", f"person {1 - number % 2}"
        assert one["scores"][mine] > one["scores"][other]
        assert sum(one["shares_ppb"].values()) + one["nobody_ppb"] == PARTS_PER_BILLION
        assert set(one["shares_ppb"]) == {mine, other}
    assert any(one["nobody_ppb"] < PARTS_PER_BILLION for one in found.values())


def test_an_empty_response_is_named(base: BaseModel, tmp_path: Path) -> None:
    given = written(tmp_path, response="")

    with pytest.raises(InvalidInputError, match="response of query q0 is empty"):
        main(["score", *given, "--base", str(base.folder), "--out", str(tmp_path / "out")])


def test_a_file_that_is_no_such_list_is_named(base: BaseModel, tmp_path: Path) -> None:
    given = written(tmp_path)
    (tmp_path / "train").write_text('{"id": "t0"}', encoding="utf-8")

    with pytest.raises(InvalidInputError, match=r"train is not as it should be: .*contributor"):
        main(["score", *given, "--base", str(base.folder), "--out", str(tmp_path / "out")])
