"""The five paid calls, made with the official client like any application would."""

import time
from collections.abc import Callable, Mapping

import httpx
import msgspec
from openai import OpenAI, OpenAIError

from openledger.cli.demo.script import Question
from openledger.core.errors import UnavailableError

_TEMPERATURE = 0.7
_POLL_S = 0.05
_ATTRIBUTION_TIMEOUT_S = 300.0


class Answer(msgspec.Struct, frozen=True):
    """What came back, and the receipt that says whom it paid."""

    receipt: str
    text: str


class Caller:
    """An application with one API key."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key
        self._client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def ask(self, model: str, question: Question, hear: Callable[[str], None]) -> Answer:
        """Ask once; `hear` gets the pieces of a streamed answer.

        Raises:
            UnavailableError: the server refused or did not answer; the message says why.
        """
        try:
            return self._ask(model, question, hear)
        except OpenAIError as error:
            raise UnavailableError(f"the call was not answered: {error}") from error

    def _ask(self, model: str, question: Question, hear: Callable[[str], None]) -> Answer:
        if question.is_chat:
            return self._chat(model, question)
        if question.is_streamed:
            return self._streamed(model, question, hear)
        raw = self._client.completions.with_raw_response.create(
            model=model,
            prompt=question.prompt,
            max_tokens=question.max_tokens,
            temperature=_TEMPERATURE,
            seed=int(question.key),
            extra_headers=_once(question),
        )
        return Answer(_receipt(raw.headers), raw.parse().choices[0].text)

    def wait_for_attribution(self, receipt: str) -> None:
        """Wait until the receipt is complete, as any client can.

        Raises:
            UnavailableError: it took too long.
        """
        end = time.monotonic() + _ATTRIBUTION_TIMEOUT_S
        headers = {"Authorization": f"Bearer {self._key}"}
        while time.monotonic() < end:
            answer = httpx.get(f"{self._url}/v1/receipts/{receipt}", headers=headers, timeout=30)
            if answer.status_code == httpx.codes.OK:
                return
            time.sleep(_POLL_S)
        raise UnavailableError(f"the attribution of {receipt} takes too long; look at the log")

    def _chat(self, model: str, question: Question) -> Answer:
        raw = self._client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": question.prompt}],
            max_tokens=question.max_tokens,
            temperature=_TEMPERATURE,
            seed=int(question.key),
            extra_headers=_once(question),
        )
        return Answer(_receipt(raw.headers), raw.parse().choices[0].message.content or "")

    def _streamed(self, model: str, question: Question, hear: Callable[[str], None]) -> Answer:
        stream = self._client.completions.create(
            model=model,
            prompt=question.prompt,
            max_tokens=question.max_tokens,
            temperature=_TEMPERATURE,
            seed=int(question.key),
            stream=True,
            extra_headers=_once(question),
        )
        pieces = []
        for chunk in stream:
            for choice in chunk.choices:
                pieces.append(choice.text)
                hear(choice.text)
        return Answer(_receipt(stream.response.headers), "".join(pieces))


def _once(question: Question) -> dict[str, str]:
    """However often the demo is killed and run again, this call is charged once."""
    return {"Idempotency-Key": f"demo-{question.key}"}


def _receipt(headers: Mapping[str, str]) -> str:
    return str(headers["OpenLedger-Receipt"])
