"""OpenAI's wire format of /v1/embeddings, both ways.

The official client asks for base64 unless told otherwise: float32, lowest byte first.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from openledger.core.errors import InvalidInputError
from openledger.web.wire.calls import Count, decode_body, whole

MOST_INPUTS = 2_048  # as OpenAI's

Input = str | tuple[int, ...]  # a text, or its tokens
TokenId = int | Annotated[float, Meta(multiple_of=1)]  # see `Count`


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/embeddings; null is as good as absent."""

    model: str
    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None


class ParsedEmbeddings(msgspec.Struct, frozen=True):
    """What is asked for."""

    model: str
    inputs: tuple[Input, ...]  # at least one, none of them empty
    dimensions: int | None
    is_base64: bool
    warnings: tuple[str, ...]


class VectorBody(msgspec.Struct, frozen=True):
    """The vector of one input."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Notes(msgspec.Struct, frozen=True):
    """The top-level object `openledger`."""

    warnings: tuple[str, ...]


class EmbeddingsAnswer(msgspec.Struct, frozen=True):
    """The vectors in the order of their inputs."""

    data: tuple[VectorBody, ...]
    model: str
    usage: EmbeddingUsage
    openledger: Notes | UnsetType = UNSET
    object: Literal["list"] = "list"


def parse_embeddings(raw: bytes) -> ParsedEmbeddings:
    """Read a call.

    Raises:
        InvalidInputError: with the field at fault in `details["param"]`.
    """
    body, warnings = decode_body(raw, EmbeddingsBody, {})
    return ParsedEmbeddings(
        model=body.model,
        inputs=_inputs(body.input),
        dimensions=whole(body.dimensions),
        is_base64=body.encoding_format == "base64",
        warnings=warnings,
    )


def embeddings_answer(
    parsed: ParsedEmbeddings, vectors: Sequence[NDArray[np.float32]], tokens: int
) -> EmbeddingsAnswer:
    """Say it as the caller asked."""
    return EmbeddingsAnswer(
        data=tuple(
            VectorBody(place, _base64(one) if parsed.is_base64 else one.tolist())
            for place, one in enumerate(vectors)
        ),
        model=parsed.model,
        usage=EmbeddingUsage(tokens, tokens),
        openledger=Notes(parsed.warnings) if parsed.warnings else UNSET,
    )


def _inputs(given: str | list[str | TokenId | list[TokenId]]) -> tuple[Input, ...]:
    listed = [given] if isinstance(given, str) else given
    texts = [one for one in listed if isinstance(one, str)]
    tokens = [int(one) for one in listed if isinstance(one, int | float)]
    rows = [tuple(map(int, one)) for one in listed if isinstance(one, list)]
    if max(len(texts), len(tokens), len(rows)) < len(listed):
        raise InvalidInputError(
            "input is one text or a list of texts, or the tokens of one or a list of such",
            param="input",
        )
    found: tuple[Input, ...] = (*texts, *rows, *([tuple(tokens)] if tokens else []))
    if not 0 < len(found) <= MOST_INPUTS:
        raise InvalidInputError(
            f"input holds {len(found)} texts; send 1 to {MOST_INPUTS}", param="input"
        )
    for place, one in enumerate(found):
        if not one:
            raise InvalidInputError(f"input {place} is empty; leave it out", param="input")
    return found


def _base64(vector: NDArray[np.float32]) -> str:
    return b64encode(vector.astype("<f4", copy=False).tobytes()).decode()
