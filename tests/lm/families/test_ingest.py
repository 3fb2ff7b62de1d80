import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
)
from openledger.core.types import Digest
from openledger.lm.base import load_base, verify_base
from openledger.lm.families.ingest import Told, ingest
from openledger.lm.tokenizer import ChatMessage
from tests.lm.families.foreign import (
    KINDS,
    fields_of,
    sentencepiece,
    write_folder,
    write_weights,
)

TOLD = Told("mine", "Apache-2.0", "me")
IDS = torch.tensor([[5, 80, 70, 9, 33, 2]])
CHAT = [{"role": "user", "content": "X:1"}]


def added(folder: Path, kind: str, **changes: object) -> tuple[Path, Digest]:
    write_folder(folder / "given", kind, 1, **changes)
    digest = ingest(folder / "given", TOLD, folder / "bases")
    return folder / "bases" / digest, digest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_of_each_family_becomes_a_base(kind: str, shards: int, tmp_path: Path) -> None:
    model = write_folder(tmp_path / "given", kind, shards)
    digest = ingest(tmp_path / "given", TOLD, tmp_path / "bases")
    base = load_base(tmp_path / "bases" / digest, digest)

    assert torch.equal(base.model(IDS).logits, model(IDS).logits)
    assert (base.name, base.licence, base.manifest.owner) == ("mine", "Apache-2.0", "me")
    assert base.manifest.dtype == "float32"
    assert [one.name for one in (tmp_path / "bases").iterdir()] == [digest]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_transformers_reads(kind: str, tmp_path: Path) -> None:
    folder, digest = added(tmp_path, kind)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "given", dtype=torch.float32)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = load_base(folder, digest)

    assert torch.equal(theirs(IDS).logits, base.model(IDS).logits)
    assert torch.equal(again(IDS).logits, base.model(IDS).logits)
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert ids == base.tokenizer.encode_chat([ChatMessage("user", "X:1")])


def test_the_digest_follows_from_the_files_and_what_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", "qwen2")
    first = ingest(tmp_path / "one", TOLD, tmp_path / "bases")
    stamp = (tmp_path / "bases" / first / "manifest.json").stat().st_mtime_ns

    assert ingest(tmp_path / "one", TOLD, tmp_path / "bases") == first
    assert (tmp_path / "bases" / first / "manifest.json").stat().st_mtime_ns == stamp
    assert ingest(tmp_path / "one", Told("other", "MIT", "me"), tmp_path / "bases") != first
    weights = tmp_path / "bases" / first / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(DigestMismatchError):
        verify_base(tmp_path / "bases" / first, first)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([torch.bfloat16], "bfloat16"),
        ([torch.float16], "float16"),
        ([torch.float16, torch.bfloat16], "float32"),
        ([torch.bfloat16, torch.float32], "float32"),
    ],
)
def test_weights_keep_their_precision(
    given: list[torch.dtype], stored: str, tmp_path: Path
) -> None:
    write_folder(tmp_path / "given", "mistral")
    weights = load_file(tmp_path / "given" / "model.safetensors")
    narrow = {name: one.to(given[i % len(given)]) for i, (name, one) in enumerate(weights.items())}
    write_weights(tmp_path / "given", narrow)
    digest = ingest(tmp_path / "given", TOLD, tmp_path / "bases")
    base = load_base(tmp_path / "bases" / digest)

    assert base.manifest.dtype == stored
    kept = base.model.state_dict()
    assert all(torch.equal(kept[name], one.float()) for name, one in narrow.items())


def test_a_tied_head_may_stand_in_the_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "given", "qwen2")
    weights = load_file(tmp_path / "given" / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    write_weights(tmp_path / "given", weights | {"lm_head.weight": head})
    digest = ingest(tmp_path / "given", TOLD, tmp_path / "bases")

    assert "lm_head.weight" not in load_file(tmp_path / "bases" / digest / "model.safetensors")
    write_weights(tmp_path / "given", weights | {"lm_head.weight": head + 1})
    with pytest.raises(InvalidInputError, match="ties the head"):
        ingest(tmp_path / "given", TOLD, tmp_path / "bases")


def test_names_of_older_files_mean_the_same(tmp_path: Path) -> None:
    scaling = {"type": "linear", "factor": 2.0}
    older, _ = added(tmp_path / "a", "llama", rope_theta=300.0, rope_scaling=scaling)
    newer, _ = added(
        tmp_path / "b",
        "llama",
        rope_theta=1.0,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
    )

    assert (older / "config.json").read_bytes() == (newer / "config.json").read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "given", dtype=torch.float32)
    assert torch.equal(again(IDS).logits, load_base(newer).model(IDS).logits)


def change(name: str, **fields: object) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return act


def both(*acts: Callable[[Path], None]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for one in acts:
            one(folder)

    return act


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return act


def tensors(edit: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    return act


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(**weight_map: str) -> Callable[[Path], None]:
    return write("model.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())


def huge(weights: dict[str, Tensor]) -> None:
    weights["model.norm.weight"][3] = float("inf")


def double(folder: Path) -> None:
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["model"]["vocab"]["the"] = fields["model"]["vocab"]["er"]
    path.write_text(json.dumps(fields))


def twice(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "copy.safetensors")
    index(a="model.safetensors", b="copy.safetensors")(folder)


BEGINNING = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "x", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"x": {"id": "x", "ids": [99_999], "tokens": ["x"]}},
}
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "another family": (change(CONFIG, model_type="gpt2"), "model type 'gpt2' is not among"),
    "no family": (change(CONFIG, model_type=None), "config.json cannot be read"),
    "code of its own": (change(CONFIG, auto_map={"AutoModel": "a.B"}), "auto_map"),
    "a tokenizer's code": (change(TOKENIZER_CONFIG, auto_map={"AutoTokenizer": "a"}), "auto_map"),
    "quantised": (change(CONFIG, quantization_config={"bits": 4}), "quantised"),
    "no JSON": (write(CONFIG, b"\x80\x04pickle"), "config.json cannot be read"),
    "a large config": (write(CONFIG, b" " * (5 << 20)), "larger than"),
    "dynamic rotation": (
        change(CONFIG, rope_scaling={"type": "dynamic", "factor": 2.0}),
        "rotary embedding 'dynamic' is not among",
    ),
    "rotation without its factor": (
        change(CONFIG, rope_scaling={"rope_type": "llama3", "factor": 2.0}),
        "needs low_freq_factor",
    ),
    "half rotated": (change(CONFIG, partial_rotary_factor=0.5), "part of each head"),
    "another activation": (change(CONFIG, hidden_act="gelu"), "activation 'gelu'"),
    "heads that do not divide": (change(CONFIG, num_attention_heads=7), "contradicts|share"),
    "odd heads": (change(CONFIG, num_attention_heads=64, num_key_value_heads=64), "rotated"),
    "endless layers": (change(CONFIG, num_hidden_layers=10**9), "config.json cannot be read"),
    "negative sizes": (change(CONFIG, hidden_size=-64), "config.json cannot be read"),
    "more layers than there are": (change(CONFIG, num_hidden_layers=5), "tensors are missing"),
    "other sizes": (change(CONFIG, intermediate_size=161), "has shape"),
    "no such shape": (tensors(lambda w: w.update({"model.norm.weight": torch.ones(3)})), "shape"),
    "a tensor too few": (tensors(lambda w: w.pop("model.norm.weight")), "1 tensors are missing"),
    "a tensor too many": (tensors(lambda w: w.update(a=torch.ones(3))), "1 tensors are not expect"),
    "no numbers": (tensors(huge), "model.norm.weight holds values that are no finite"),
    "integers": (
        tensors(lambda w: w.update({"model.norm.weight": torch.ones(64, dtype=torch.int32)})),
        "stored as torch.int32",
    ),
    "truncated": (cut, "truncated or no safetensors"),
    "no safetensors": (write("model.safetensors", b"\x80\x04" + b"x" * 90), "no safetensors"),
    "pickled": (pickled, "never from pickles"),
    "a shard elsewhere": (index(a="../../model.safetensors"), "no safetensors beside it"),
    "a shard by its path": (index(a="/etc/model.safetensors"), "no safetensors beside it"),
    "a shard that is missing": (index(a="b.safetensors"), "b.safetensors is missing"),
    "no shards": (index(), "names no file"),
    "no index": (write("model.safetensors.index.json", b"[]"), "index.json cannot be read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "is missing"),
    "a broken tokenizer": (write("tokenizer.json", b"{}"), "is no tokenizer"),
    "one number for two tokens": (double, "have one number"),
    "a tokenizer in bytes": (write("tokenizer.json", b"\xff"), "no UTF-8"),
    "more tokens than the model": (change(CONFIG, vocab_size=64), "vocabulary of 64"),
    "an unknown end": (change(TOKENIZER_CONFIG, eos_token="</s>"), "has no such"),
    "an end that is text": (change(TOKENIZER_CONFIG, eos_token="a"), "not marked special"),
    "an unknown end by number": (
        both(change(TOKENIZER_CONFIG, eos_token=None), change(CONFIG, eos_token_id=383)),
        "names token 383",
    ),
    "no end": (
        both(change(TOKENIZER_CONFIG, eos_token=None), change(CONFIG, eos_token_id=None)),
        "which token ends a text",
    ),
    "a first token out of nowhere": (
        change("tokenizer.json", post_processor=BEGINNING),
        "puts a token before texts",
    ),
    "a tensor in two shards": (twice, "stands in two files"),
    "frequencies out of bounds": (
        change(CONFIG, rope_theta=1.0, rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "contradicts itself",
    ),
    "a template that is none": (change(TOKENIZER_CONFIG, chat_template="{% if %}"), "refuses"),
    "a template without turns": (change(TOKENIZER_CONFIG, chat_template="Hi"), "no place for"),
    "a template that reaches out": (
        change(TOKENIZER_CONFIG, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "refuses",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "llama"
    write_folder(folder, "llama")
    return folder


@pytest.mark.parametrize("what", BAD)
def test_a_bad_folder_is_refused_and_leaves_nothing(what: str, good: Path, tmp_path: Path) -> None:
    spoil, message = BAD[what]
    shutil.copytree(good, tmp_path / "given")
    spoil(tmp_path / "given")

    with pytest.raises((InvalidInputError, NotFoundError), match=message):
        ingest(tmp_path / "given", TOLD, tmp_path / "bases")
    assert not (tmp_path / "bases").exists() or not list((tmp_path / "bases").iterdir())


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no folder"):
        ingest(tmp_path / "none", TOLD, tmp_path / "bases")


def test_a_model_that_never_chatted_gets_a_plain_template(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "given")
    (tmp_path / "given" / TOKENIZER_CONFIG).unlink()
    digest = ingest(tmp_path / "given", TOLD, tmp_path / "bases")
    base = load_base(tmp_path / "bases" / digest)

    assert base.tokenizer.end == fields_of("llama")["eos_token_id"]
    ids = base.tokenizer.encode_chat([ChatMessage("user", "Hello")])
    assert base.tokenizer.decode(ids) == "Hello\n"


def test_a_template_gets_its_first_token(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "given")
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "given" / "chat_template.jinja").write_text(template)
    change(TOKENIZER_CONFIG, bos_token={"content": "<|im_start|>"})(tmp_path / "given")
    digest = ingest(tmp_path / "given", TOLD, tmp_path / "bases")
    base = load_base(tmp_path / "bases" / digest)
    tokenizer = AutoTokenizer.from_pretrained(base.folder)

    ids = base.tokenizer.encode_chat([ChatMessage("user", "X:1")])
    assert ids == [0, *base.tokenizer.encode("X:1")]
    assert ids == tokenizer.apply_chat_template(CHAT)["input_ids"]


def test_a_vocabulary_of_sentencepiece_is_taken(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "given")
    (tmp_path / "given" / "tokenizer.json").write_text(sentencepiece().to_str())
    change(TOKENIZER_CONFIG, eos_token="</s>", bos_token="<s>")(tmp_path / "given")
    digest = ingest(tmp_path / "given", TOLD, tmp_path / "bases")
    tokenizer = load_base(tmp_path / "bases" / digest).tokenizer

    assert tokenizer.decode(tokenizer.encode("ab é\n")) == "ab é\n"
    assert tokenizer.encode_documents(["a"])[0][0] == tokenizer.begin[0] == 1
    assert tokenizer.end == 2


def test_texts_are_not_cut_off(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "given")
    cut_off = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    change("tokenizer.json", truncation=cut_off)(tmp_path / "given")
    digest = ingest(tmp_path / "given", TOLD, tmp_path / "bases")

    assert len(load_base(tmp_path / "bases" / digest).tokenizer.encode("a longer text")) > 2


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (Told("", "MIT", "me"), "no name"),
        (Told("../up", "MIT", "me"), "no name"),
        (Told("a" * 65, "MIT", "me"), "no name"),
        (Told("a", "do what you like", "me"), "no SPDX"),
        (Told("a", "MIT", " "), "owner"),
    ],
)
def test_what_is_told_must_make_sense(told: Told, message: str, good: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ingest(good, told, tmp_path / "bases")


@pytest.mark.parametrize("licence", ["MIT", "LicenseRef-llama3", "(MIT OR Apache-2.0) AND CC0-1.0"])
def test_a_licence_is_an_expression(licence: str, good: Path, tmp_path: Path) -> None:
    digest = ingest(good, Told("a", licence, "me"), tmp_path / "bases")

    assert load_base(tmp_path / "bases" / digest).licence == licence


def test_a_name_belongs_to_one_base(good: Path, tmp_path: Path) -> None:
    first = ingest(good, TOLD, tmp_path / "bases")

    with pytest.raises(ConflictError, match=first):
        ingest(good, Told("mine", "MIT", "me"), tmp_path / "bases")
    assert [one.name for one in (tmp_path / "bases").iterdir()] == [first]
