"""Hooks of schemathesis: calls that should be answered name what is there, and want little."""

import os
from typing import Any

import schemathesis

MODELS = os.environ["MODELS"].split()
RECEIPT = os.environ["RECEIPT"]
_MOST_TOKENS = 4


@schemathesis.hook  # type: ignore[untyped-decorator]  # it is installed elsewhere only
def before_call(context: Any, case: Any, kwargs: Any) -> None:  # noqa: ANN401
    if not case.meta.generation.mode.is_positive:
        return
    if "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = RECEIPT if "receipts" in case.path else MODELS[0]
    if "release" in (case.query or {}):
        case.query["release"] = MODELS[0]
    if isinstance(case.body, dict) and "model" in case.body:
        _make_answerable(case.body)


def _make_answerable(body: dict[str, Any]) -> None:
    """What the schema cannot say: which models there are, and how much time there is."""
    for limit in ("max_tokens", "max_completion_tokens"):
        body[limit] = min(body.get(limit) or _MOST_TOKENS, _MOST_TOKENS)
    if body["model"] == "mix":
        body["openledger"]["mix"] = [{"model": MODELS[0], "weight": 0.7}, {"model": MODELS[1]}]
    else:
        body["model"] = MODELS[0]
