"""OpenAI's own client, of either major version."""

from typing import Any

import openai
from openai.types.chat import ChatCompletionStreamOptionsParam, ChatCompletionUserMessageParam

from tests.clients.drivers.lines import QUESTION, Answer, Call, drive


def whole(call: Call) -> Answer:
    answer = client(call).chat.completions.create(**fields(call))
    choice = answer.choices[0]
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "model": answer.model,
        "id": answer.id,
        "usage": usage_of(answer.usage),
    }


def streamed(call: Call) -> Answer:
    options = ChatCompletionStreamOptionsParam(include_usage=call["has_usage"])
    stream = client(call).chat.completions.create(
        **fields(call), stream=True, stream_options=options
    )
    chunks = list(stream)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": choices[-1].finish_reason,
        "model": chunks[0].model,
        "id": chunks[0].id,
        "usage": usage_of(chunks[-1].usage),
    }


def dropped(call: Call) -> Answer:
    stream = client(call).chat.completions.create(**fields(call), stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            stream.close()
            return {"text": chunk.choices[0].delta.content, "id": chunk.id}
    raise SystemExit("the stream ended before it was dropped")


def models(call: Call) -> Answer:
    return {"models": sorted(model.id for model in client(call).models.list())}


def client(call: Call) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=call["url"], api_key=call["key"], max_retries=call["retries"], timeout=60
    )


def fields(call: Call) -> dict[str, Any]:
    return {
        "model": call["model"],
        "messages": [ChatCompletionUserMessageParam(role="user", content=QUESTION)],
        "temperature": 0,
        "max_tokens": call["max_tokens"],
        "extra_body": call["extra"],
    }


def usage_of(usage: openai.types.CompletionUsage | None) -> list[int] | None:
    if usage is None:
        return None
    return [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]


if __name__ == "__main__":
    ways = {"whole": whole, "streamed": streamed, "dropped": dropped, "models": models}
    drive(ways, openai.OpenAIError)
