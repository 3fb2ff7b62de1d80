"""LangChain's model over OpenAI's client."""

import openai
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI

from tests.clients.drivers.lines import QUESTION, Answer, Call, drive


def whole(call: Call) -> Answer:
    return told(model(call).invoke(QUESTION))


def streamed(call: Call) -> Answer:
    chunks = model(call, has_usage=call["has_usage"]).stream(QUESTION)
    first = next(chunks)
    return told(sum(chunks, first))


def dropped(call: Call) -> Answer:
    chunks = model(call).stream(QUESTION)
    first = next(chunks)  # it holds the headers
    for chunk in chunks:
        if chunk.content:
            chunks.close()
            return {"text": chunk.content, "id": receipt_of(first)}
    raise SystemExit("the stream ended before it was dropped")


def model(call: Call, *, has_usage: bool = False) -> ChatOpenAI:
    return ChatOpenAI(
        model=call["model"],
        base_url=call["url"],
        api_key=call["key"],
        max_retries=call["retries"],
        max_tokens=call["max_tokens"],
        extra_body=call["extra"],
        temperature=0,
        stream_usage=has_usage,
        timeout=60,
        include_response_headers=True,
    )


def receipt_of(message: AIMessage) -> str:
    """LangChain has ids of its own, but shows the headers."""
    return str(message.response_metadata["headers"]["openledger-receipt"])


def told(message: AIMessage) -> Answer:
    usage = message.usage_metadata
    return {
        "text": message.content,
        "finish": message.response_metadata["finish_reason"],
        "model": message.response_metadata["model_name"],
        "id": receipt_of(message),
        "usage": usage and [usage[f"{kind}_tokens"] for kind in ("input", "output", "total")],
    }


if __name__ == "__main__":
    drive({"whole": whole, "streamed": streamed, "dropped": dropped}, openai.OpenAIError)
