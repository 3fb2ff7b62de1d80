"""What every driver does: a call a line comes in as JSON, an answer a line goes out.

It runs where only its client is installed: nothing but the standard library is imported here.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

QUESTION = "A reel, please"

Call = Mapping[str, Any]  # url, key, model, extra (a body's further fields), max_tokens, retries
Answer = dict[str, Any]  # text, finish, model, id, usage (prompt, answer, total), chunks
Way = Callable[[Call], Answer]


def drive(ways: Mapping[str, Way], errors: type[Exception]) -> None:
    """Answer calls until there are no more; `errors` is the base of the client's own."""
    # Clients print what they like: that goes to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            call = json.loads(line)
            try:
                answer = ways[call["way"]](call)
            except errors as error:
                answer = _told(error)
            print(json.dumps(answer), file=out, flush=True)


def _told(error: Exception) -> Answer:
    response = getattr(error, "response", None)
    # LiteLLM keeps the server's headers apart.
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", {})
    return {
        "errors": [kind.__name__ for kind in type(error).mro()],
        "status": getattr(error, "status_code", None),
        "message": str(error),
        "retry_after": headers.get("retry-after"),
    }
