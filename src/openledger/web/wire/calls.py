"""What clients send to the two completion routes.

What would change the answer and cannot be honoured is refused by name; what is unknown is ignored
and listed in `openledger.warnings`.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from openledger.core.encoding import check_depth
from openledger.core.errors import InvalidInputError
from openledger.core.ids import (
    RELEASE_PATTERN,
    WeightedName,
    checked_mix,
    model_text,
    parse_release_name,
    weight_ppb,
)
from openledger.core.money import AMOUNT_PATTERN, from_open
from openledger.web.inference import InferenceRequest, Message, Payer

_MIX = "mix"  # the model where the extension says of what
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_FIELD_AT_FAULT = re.compile(r"`\$\.(\w+)")
_MISSING_FIELD = re.compile(r"required field `(\w+)`")

# Fields that change the answer, with the values that ask for nothing.
REFUSED: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "n": (1,),
}


# In JSON 5.0 is an integer, too, and some clients write it so.
Count = (
    Annotated[int, Meta(ge=1, le=2**31 - 1)]
    | Annotated[float, Meta(ge=1, le=2**31 - 1, multiple_of=1)]
)
Seed = (
    Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | Annotated[float, Meta(ge=-(2**63), le=2**63 - 1, multiple_of=1)]
)
Text = Annotated[str, Meta(min_length=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Amount = Annotated[str, Meta(extra_json_schema={"pattern": AMOUNT_PATTERN})]


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message's content."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["text"]})]
    text: str = ""


class MessageBody(msgspec.Struct, frozen=True):
    """One turn as the client sends it."""

    role: Annotated[str, Meta(extra_json_schema={"enum": sorted(_ROLES)})]
    content: str | list[TextPart] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What else a stream should carry."""

    include_usage: bool = False


class MemberBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One release of a mix."""

    model: Annotated[str, Meta(extra_json_schema={"pattern": f"^{RELEASE_PATTERN}$"})]
    weight: Decimal = Decimal(1)  # so that 0.7 is seven tenths


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Our own options: `extra_body={"openledger": {...}}`."""

    max_cost: Amount | None = None  # decimal, in OPEN
    attribution: Literal["influence", "audited"] = "influence"
    mix: Annotated[list[MemberBody], Meta(extra_json_schema={"minItems": 1})] | None = (
        None  # beside the model "mix"
    )


class CallBody(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that both routes share; null is as good as absent."""

    model: str
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Count | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    openledger: Extension | None = None


class ChatBody(CallBody, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    max_completion_tokens: Count | None = None


class CompletionBody(CallBody, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Meta(min_length=1, max_length=1)]


class ParsedCall(msgspec.Struct, frozen=True):
    """A call that can be made, and how to answer it."""

    request: InferenceRequest
    includes_usage: bool  # a stream ends with a chunk of usage
    warnings: tuple[str, ...]


Body = TypeVar("Body", bound=msgspec.Struct)


def parse_chat(raw: bytes, payer: Payer, max_cost: str | None) -> ParsedCall:
    """Read a chat call; `max_cost` is what the header says, the body's own comes first.

    Raises:
        InvalidInputError: with the field at fault in `details["param"]`.
    """
    body, warnings = decode_body(raw, ChatBody, REFUSED)
    messages = tuple(_message(one) for one in body.messages)
    limit = body.max_completion_tokens
    request = msgspec.structs.replace(
        _request(body, payer, max_cost),
        messages=messages,
        max_tokens=whole(body.max_tokens if limit is None else limit),
    )
    return _parsed(body, request, warnings)


def parse_completion(raw: bytes, payer: Payer, max_cost: str | None) -> ParsedCall:
    """Read a plain completion call; errors as `parse_chat`."""
    body, warnings = decode_body(raw, CompletionBody, REFUSED)
    prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    request = msgspec.structs.replace(_request(body, payer, max_cost), prompt=prompt)
    return _parsed(body, request, warnings)


def decode_body(
    raw: bytes, kind: type[Body], refused: Mapping[str, tuple[object, ...]]
) -> tuple[Body, tuple[str, ...]]:
    """Read a body, and say of what is in it that it was ignored.

    `refused` holds fields that may have these values only.

    Raises:
        InvalidInputError: with the field at fault in `details["param"]`.
    """
    check_depth(raw)
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        _refuse(fields, refused)
        body = msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _not_understood(str(error)) from error
    known = {*kind.__struct_fields__, *refused}
    ignored = sorted(name for name in fields if name not in known)
    return body, tuple(f"{name} is not supported and was ignored" for name in ignored)


def _refuse(fields: Mapping[str, msgspec.Raw], refused: Mapping[str, tuple[object, ...]]) -> None:
    for name, harmless in refused.items():
        value = msgspec.json.decode(fields[name]) if name in fields else None
        if value is not None and not any(_is_same(value, one) for one in harmless):
            raise InvalidInputError(
                f"{name} is not supported by this server; leave it out", param=name
            )


def _is_same(value: object, other: object) -> bool:
    """As JSON has it: there true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _not_understood(reason: str) -> InvalidInputError:
    match = _FIELD_AT_FAULT.search(reason) or _MISSING_FIELD.search(reason)
    details = {"param": match[1]} if match else {}
    return InvalidInputError(f"the body is not understood: {reason}", **details)


def _message(body: MessageBody) -> Message:
    if body.role not in _ROLES:
        raise InvalidInputError(
            f"a message's role is system, user or assistant, not {body.role!r}", param="messages"
        )
    if isinstance(body.content, list):
        if any(part.type != "text" for part in body.content):
            raise InvalidInputError("a message holds text parts only", param="messages")
        return Message(_ROLES[body.role], "".join(part.text for part in body.content))
    return Message(_ROLES[body.role], body.content or "")


def _request(body: CallBody, payer: Payer, max_cost: str | None) -> InferenceRequest:
    if body.openledger is not None and body.openledger.max_cost is not None:
        max_cost = body.openledger.max_cost
    return InferenceRequest(
        payer=payer,
        model=_model(body),
        max_tokens=whole(body.max_tokens),
        temperature=_given(body.temperature, 1.0),
        top_p=_given(body.top_p, 1.0),
        top_k=whole(body.top_k),
        repetition_penalty=_given(body.repetition_penalty, 1.0),
        presence_penalty=_given(body.presence_penalty, 0.0),
        frequency_penalty=_given(body.frequency_penalty, 0.0),
        seed=whole(body.seed),
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        max_cost=None if max_cost is None else from_open(max_cost),
        is_audited=body.openledger is not None and body.openledger.attribution == "audited",
        is_streamed=bool(body.stream),
    )


def _model(body: CallBody) -> str:
    """The model's name, that of a mix as if it had been written out."""
    members = None if body.openledger is None else body.openledger.mix
    if members is None:
        if body.model.strip() == _MIX:
            raise InvalidInputError(
                "the model is a mix, but of what? Write mix:owner/name*0.7+other/name*0.3, or list "
                "its members in openledger.mix",
                param="model",
            )
        return body.model
    if body.model.strip() != _MIX:
        raise InvalidInputError(
            f"the model {body.model!r} contradicts openledger.mix; beside a list of members it is "
            f"{_MIX!r}",
            param="model",
        )
    return _written_out(members)


def _written_out(members: Sequence[MemberBody]) -> str:
    try:
        named = checked_mix(
            [WeightedName(parse_release_name(one.model), weight_ppb(one.weight)) for one in members]
        )
    except InvalidInputError as error:
        raise InvalidInputError(str(error), param="openledger") from error
    return model_text((str(one.name), one.weight_ppb) for one in named)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def whole(value: float | None) -> int | None:
    """Of a number that was checked to be one, however it was written."""
    return None if value is None else int(value)


def _parsed(body: CallBody, request: InferenceRequest, warnings: tuple[str, ...]) -> ParsedCall:
    options = body.stream_options or StreamOptions()
    return ParsedCall(request, options.include_usage, warnings)
