"""LiteLLM, told that ours is a server of OpenAI's kind."""

from typing import Any

import litellm
import openai

from tests.clients.drivers.lines import QUESTION, Answer, Call, drive


def whole(call: Call) -> Answer:
    answer = litellm.completion(**fields(call))
    choice = answer.choices[0]
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "model": answer.model,
        "id": answer.id,
        "usage": usage_of(answer),
    }


def streamed(call: Call) -> Answer:
    options = {"include_usage": True} if call["has_usage"] else None
    chunks = list(litellm.completion(**fields(call), stream=True, stream_options=options))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": next(one.finish_reason for one in reversed(choices) if one.finish_reason),
        "model": chunks[0].model,
        "id": chunks[0].id,
        "usage": usage_of(chunks[-1]),
    }


def dropped(call: Call) -> Answer:
    stream = litellm.completion(**fields(call), stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            stream.completion_stream.close()
            return {"text": chunk.choices[0].delta.content, "id": chunk.id}
    raise SystemExit("the stream ended before it was dropped")


def fields(call: Call) -> dict[str, Any]:
    return {
        "model": f"openai/{call['model']}",
        "api_base": call["url"],
        "api_key": call["key"],
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": call["max_tokens"],
        "max_retries": call["retries"],
        "extra_body": call["extra"],
        "timeout": 60,
    }


def usage_of(answer: Any) -> list[int] | None:  # noqa: ANN401 - LiteLLM is installed elsewhere only
    usage = getattr(answer, "usage", None)
    return usage and [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    drive({"whole": whole, "streamed": streamed, "dropped": dropped}, openai.OpenAIError)
