"""What can be asked about base models: the catalogue of a home."""

import msgspec

from openledger.core.types import Digest, Precision
from openledger.operations.operation import Nothing, Operation


class NewBase(msgspec.Struct, frozen=True):
    """A folder in the format of Hugging Face, on the machine that holds the home."""

    folder: str  # absolute
    name: str
    licence: str  # SPDX
    owner: str


class WhichBase(msgspec.Struct, frozen=True):
    """A base model by name or digest."""

    name: str


class BaseView(msgspec.Struct, frozen=True):
    """A base model; its digest binds all that answers depend on."""

    name: str  # as models.base takes it
    title: str  # as its maker calls it
    digest: Digest
    is_chosen: bool  # whether this home works with it
    family: str  # llama, mistral, qwen2 or qwen3
    licence: str
    owner: str
    source: str
    source_digest: Digest
    weights: Digest
    tokenizer: Digest
    template: Digest
    config: Digest
    dtype: str  # of the stored weights
    stored_bytes: int
    parameters: int
    context: int  # tokens that it may see at once
    serving_dtype: Precision  # that this machine computes in
    serving_bytes: (
        int  # of weights and tables in memory; training and attribution take as much again
    )
    kv_token_bytes: int  # of one token in the KV cache
    folder: str


class BaseList(msgspec.Struct, frozen=True):
    """Base models by name."""

    bases: tuple[BaseView, ...]


ADD = Operation("base.add", NewBase, BaseView)
SHOW = Operation("base.show", WhichBase, BaseView)
LIST = Operation("base.list", Nothing, BaseList)
