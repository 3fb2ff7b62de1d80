"""What /v1 is, as OpenAPI 3.1 says it, made of the records that the routes read and write.

What no schema can say stays unsaid: sums over a mix, checksums, tokens of a prompt.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from openledger.core.ids import (
    MIX_PATTERN,
    RECEIPT_PATTERN,
    RELEASE_PATTERN,
    WEIGHT_PATTERN,
)
from openledger.core.money import AMOUNT_PATTERN
from openledger.operations.receipts import EvidenceView
from openledger.web.errors import ErrorEnvelope
from openledger.web.openai_api import LONGEST_KEY, ModelBody, ModelList
from openledger.web.platform_api import BalanceBody, ReceiptDocument
from openledger.web.wire.answers import Answer
from openledger.web.wire.calls import REFUSED, ChatBody, CompletionBody, Extension, MemberBody
from openledger.web.wire.embeddings import MOST_INPUTS, EmbeddingsAnswer, EmbeddingsBody

Json = dict[str, Any]

_MODEL = f"^({RELEASE_PATTERN}|{MIX_PATTERN})$"
_ANY_ROUTE = (403, 413, 500, 503)  # a foreign host, a body, a bug, a database that does not answer
_ANY_KEY = (401, 429)
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
_EVENTS = {"text/event-stream": {"schema": _EVENT}}


class Route(msgspec.Struct, frozen=True):
    """One operation."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, type] = {}  # what is no error
    errors: tuple[int, ...] = ()  # beside those of any route
    body: type | None = None
    parameters: tuple[Json, ...] = ()
    has_key: bool = True


def _parameter(place: str, name: str, schema: Json) -> Json:
    return {"in": place, "name": name, "required": place == "path", "schema": schema}


def _text(pattern: str) -> Json:
    return {"type": "string", "pattern": pattern}


_CALL = (
    _parameter(
        "header", "Idempotency-Key", {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY}
    ),
    _parameter("header", "OpenLedger-Max-Cost", _text(AMOUNT_PATTERN)),
)
_CALL_ERRORS = (400, 402, 404, 409)
_CALLS = (ChatBody, CompletionBody)
_RECEIPT = _parameter("path", "name", _text(f"^{RECEIPT_PATTERN}$"))

ROUTES = (
    Route("get", "/v1/models", "List the releases on sale", {200: ModelList}),
    Route(
        "get",
        "/v1/models/{name}",
        "Show a release, or what a mix costs",
        {200: ModelBody},
        (400, 404),
        parameters=(_parameter("path", "name", _text(_MODEL)),),
    ),
    Route(
        "post",
        "/v1/chat/completions",
        "Answer a chat",
        {200: Answer},
        _CALL_ERRORS,
        ChatBody,
        _CALL,
    ),
    Route(
        "post",
        "/v1/completions",
        "Go on with a text",
        {200: Answer},
        _CALL_ERRORS,
        CompletionBody,
        _CALL,
    ),
    Route(
        "post",
        "/v1/embeddings",
        "Make vectors of texts; 404 where the operator switched it off",
        {200: EmbeddingsAnswer},
        (400, 404),
        EmbeddingsBody,
    ),
    Route("post", "/v1/responses", "Say which route to call instead", errors=(404,)),
    Route(
        "get",
        "/v1/receipts/{name}",
        "Show a receipt; 202 while its attribution is pending",
        {200: ReceiptDocument, 202: ReceiptDocument},
        (400, 404),
        parameters=(_RECEIPT,),
        has_key=False,
    ),
    Route(
        "get",
        "/v1/receipts/{name}/evidence",
        "Show whose documents made an answer, to its parties",
        {200: EvidenceView},
        (400, 404, 409),
        parameters=(_RECEIPT, _parameter("query", "release", _text(f"^{RELEASE_PATTERN}$"))),
    ),
    Route("get", "/v1/balance", "Show what the payer has here", {200: BalanceBody}),
)


def describe() -> Json:
    """The document."""
    records = {kind for route in ROUTES for kind in (*route.answers.values(), route.body) if kind}
    _, schemas = msgspec.json.schema_components(
        [ErrorEnvelope, *sorted(records, key=lambda kind: kind.__name__)],
        ref_template="#/components/schemas/{name}",
    )
    _mend(schemas)
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    key = {"type": "http", "scheme": "bearer", "description": "openledger wallet key"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenLedger", "version": version("openledger")},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": key}},
    }


def _operation(route: Route) -> Json:
    answers = {str(status): _answer(status, kind, route) for status, kind in route.answers.items()}
    errors = sorted({*_ANY_ROUTE, *route.errors, *(_ANY_KEY if route.has_key else ())})
    operation: Json = {
        "summary": route.summary,
        "parameters": list(route.parameters),
        "responses": answers | {str(status): _error(status) for status in errors},
        "security": [{"key": []}] if route.has_key else [],
    }
    if route.body is not None:
        content = {"application/json": {"schema": _ref(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(status: int, kind: type, route: Route) -> Json:
    content: Json = {"application/json": {"schema": _ref(kind)}}
    told: Json = {"description": HTTPStatus(status).phrase, "content": content}
    if route.body in _CALLS:  # they may be streamed
        content |= _EVENTS
        receipt = {"required": True, "schema": _text(f"^{RECEIPT_PATTERN}$")}
        told["headers"] = {"OpenLedger-Receipt": receipt}
    return told


def _error(status: int) -> Json:
    content = {"application/json": {"schema": _ref(ErrorEnvelope)}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _ref(kind: type) -> Json:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _mend(schemas: dict[str, Json]) -> None:
    """Say what the records' types do not: a weight's forms, refused fields, lists, mixes."""
    member = schemas[MemberBody.__name__]["properties"]
    # Steps of a part per billion, which is exact as a decimal only.
    number = {"type": "number", "minimum": -10, "maximum": 10, "multipleOf": 1e-9}
    member["weight"] = {"anyOf": [number, _text(f"^{WEIGHT_PATTERN}$")], "default": 1}
    extension = schemas.pop(Extension.__name__)
    schemas[EmbeddingsBody.__name__]["properties"]["input"] = {"anyOf": list(_inputs())}
    for kind in _CALLS:
        body = schemas[kind.__name__]
        for name, harmless in REFUSED.items():
            body["properties"][name] = {"enum": [*harmless, None]}
        schemas[kind.__name__] = {"anyOf": list(_two_ways(body, extension))}


def _inputs() -> Iterable[Json]:
    """Of a call for vectors: one or several, of one kind."""
    token = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    for one in ({"type": "string", "minLength": 1}, _listed(token)):
        yield one
        yield _listed(one, MOST_INPUTS)


def _listed(item: Json, most: int | None = None) -> Json:
    schema = {"type": "array", "items": item, "minItems": 1}
    return schema if most is None else schema | {"maxItems": most}


def _two_ways(body: Json, extension: Json) -> Iterable[Json]:
    fields, own = body["properties"], extension["properties"]
    plain = extension | {"properties": own | {"mix": {"type": "null"}}}
    optional = {"anyOf": [plain, {"type": "null"}]}
    yield body | {"properties": fields | {"model": _text(_MODEL), "openledger": optional}}
    members = own["mix"]["anyOf"][0]
    mixed = extension | {"properties": own | {"mix": members}, "required": ["mix"]}
    listed = fields | {"model": {"const": "mix"}, "openledger": mixed}
    yield body | {"properties": listed, "required": [*body["required"], "openledger"]}
