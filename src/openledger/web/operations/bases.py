"""The catalogue of base models."""

from pathlib import Path
from typing import TYPE_CHECKING

from openledger.core.errors import InvalidInputError
from openledger.operations.bases import (
    ADD,
    LIST,
    SHOW,
    BaseList,
    BaseView,
    NewBase,
    WhichBase,
)
from openledger.operations.operation import Nothing
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform

if TYPE_CHECKING:
    from openledger.lm.families.catalogue import Entry

_BYTES = {"bfloat16": 2, "float32": 4}  # of one number


def add(platform: Platform, new: NewBase) -> BaseView:
    """Check a folder and copy it into the home."""
    from openledger.lm.families.catalogue import read_entry
    from openledger.lm.families.ingest import Told, ingest
    from openledger.wiring.bases import SMOLLM2, TINY

    if new.name in (TINY, SMOLLM2):
        raise InvalidInputError(f"{new.name} comes with the platform; give another name")
    told = Told(new.name, new.licence, new.owner)
    digest = ingest(Path(new.folder), told, platform.home.models)
    return _view(platform, new.name, read_entry(platform.home.models / digest))


def show(platform: Platform, which: WhichBase) -> BaseView:
    """One base model."""
    from openledger.wiring.bases import find_base, known_bases

    known = known_bases(platform.home, platform.cache)
    found = find_base(known, which.name)
    name = next(name for name, entry in known.items() if entry is found)
    return _view(platform, name, found)


def list_all(platform: Platform, _: Nothing) -> BaseList:
    """All base models that are here."""
    from openledger.wiring.bases import known_bases

    known = known_bases(platform.home, platform.cache)
    return BaseList(tuple(_view(platform, name, entry) for name, entry in sorted(known.items())))


def _view(platform: Platform, name: str, entry: "Entry") -> BaseView:
    from openledger.lm.base import DTYPES
    from openledger.serving.llama.cache import BLOCK, block_bytes
    from openledger.serving.llama.shape import shape_of

    manifest, dtype = entry.manifest, platform.models.precision
    shape = shape_of(entry.config)
    rotary_bytes = shape.context * shape.head_dim * _BYTES["float32"]
    return BaseView(
        name=name,
        title=manifest.name,
        digest=entry.digest,
        is_chosen=platform.settings.models.base in (name, entry.digest),
        family=entry.family,
        licence=manifest.licence,
        owner=manifest.owner,
        source=manifest.source,
        source_digest=manifest.source_digest,
        weights=manifest.weights,
        tokenizer=manifest.tokenizer,
        template=manifest.template,
        config=manifest.config,
        dtype=manifest.dtype,
        stored_bytes=entry.stored_bytes,
        parameters=entry.parameters,
        context=entry.context,
        serving_dtype=dtype,
        serving_bytes=entry.serving_parameters * _BYTES[dtype] + rotary_bytes,
        kv_token_bytes=block_bytes(shape, DTYPES[dtype]) // BLOCK,
        folder=str(entry.folder),
    )


IMPLEMENTED = (
    Implementation(ADD, add),
    Implementation(SHOW, show),
    Implementation(LIST, list_all),
)
