"""The few routes of a vLLM server that the engine needs, each bounded in time and bytes.

Source: vLLM 0.32, vllm/entrypoints (openai/completion, openai/models, serve/lora,
serve/instrumentator).
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, TypeVar

import httpx
import msgspec

from openledger.core.encoding import check_depth
from openledger.core.errors import (
    EngineFaultError,
    InvalidInputError,
    NotFoundError,
    OpenLedgerError,
    UnavailableError,
)
from openledger.serving.vllm.wire import DONE, told

_CONNECT_S = 5.0
_SILENCE_S = 120.0  # between two pieces of an answer, the wait for its first one included
_LOAD_S = 120.0  # reading one adapter
_LOOK_S = 5.0  # for what is answered from memory
_IDLE_S = 2.0  # before a connection is given up
_LARGEST_BODY = 1 << 20  # of a list of models: each adapter has a line
_LARGEST_EVENT = 1 << 20  # the first piece repeats the prompt's ids
_OK = 200
_NOT_FOUND = 404
_BAD_REQUEST = 400
_Known = TypeVar("_Known")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,39}")


class ServerConfig(msgspec.Struct, frozen=True):
    """Where a vLLM server listens and what it was started with."""

    url: str
    key: str | None = None  # its --api-key
    max_rank: int = 16  # its --max-lora-rank


class Described(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    version: str
    model: str  # under which name it serves the base
    context: int  # tokens


class _Version(msgspec.Struct):
    version: str


class _Card(msgspec.Struct):
    id: str
    max_model_len: Annotated[int, msgspec.Meta(ge=1)] | None = None
    parent: str | None = None  # of an adapter: its base


class _Models(msgspec.Struct):
    data: list[_Card]


class VllmClient:
    """One server; use it from one event loop only."""

    def __init__(self, config: ServerConfig) -> None:
        self._url = config.url.rstrip("/")
        # Nothing compressed: its size is known before it is unpacked.
        headers = {"accept-encoding": "identity"}
        if config.key is not None:
            headers["authorization"] = f"Bearer {config.key}"
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S, pool=None),
            # The engine counts its answers itself; the server hangs up on idle ones after 5 s.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_S),
        )
        self._adapters = asyncio.Lock()  # loads and unloads happen in the order they were asked

    async def describe(self) -> Described:
        """Ask what it is.

        Raises:
            UnavailableError: it does not answer, or not as vLLM does.
        """
        version = self._read(await self._get("/version"), _Version).version
        if not _VERSION.fullmatch(version):
            raise self._strange("a version that is none")
        cards = self._read(await self._get("/v1/models"), _Models).data
        bases = [card for card in cards if card.parent is None]
        if not bases or bases[0].max_model_len is None:
            raise self._strange("no base model")
        return Described(version, bases[0].id, bases[0].max_model_len)

    async def is_healthy(self) -> bool:
        """Whether it answers and its engine lives."""
        try:
            await self._get("/health")
        except OpenLedgerError:
            return False
        return True

    async def load(self, name: str, path: str) -> None:
        """Have it read the adapter in this folder of its machine, in place of any of that name.

        Raises:
            InvalidInputError: it refuses the adapter.
            NotFoundError: it finds no such folder, or may not load adapters.
            UnavailableError: it does not answer, or fails.
        """
        asked = {"lora_name": name, "lora_path": path}
        async with self._adapters:
            status, body = await self._post("/v1/load_lora_adapter", asked)
            if status == _BAD_REQUEST:
                # Most likely of a former run of ours. From which folder it came nobody says.
                await self._post("/v1/unload_lora_adapter", {"lora_name": name})
                status, body = await self._post("/v1/load_lora_adapter", asked)
        if status == _OK:
            return
        why = f"the vLLM server did not load {path}, status {status}: {told(body)}"
        if status == _BAD_REQUEST:
            raise InvalidInputError(why)
        if status == _NOT_FOUND:
            raise NotFoundError(
                f"{why}; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and let it see our "
                "folder of adapters where vllm.mount says"
            )
        raise UnavailableError(f"{why}; see its log")

    async def unload(self, name: str) -> None:
        """Have it forget an adapter; one that it does not know is no error.

        Raises:
            UnavailableError: it does not answer, or fails.
        """
        async with self._adapters:
            status, body = await self._post("/v1/unload_lora_adapter", {"lora_name": name})
        if status not in (_OK, _NOT_FOUND):
            raise UnavailableError(f"the vLLM server kept adapter {name}: {told(body)}")

    @asynccontextmanager
    async def complete(self, body: Mapping[str, object]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Ask for an answer and read its events; leaving early ends it on the server, too.

        Raises:
            NotFoundError: the server does not know the model.
            EngineFaultError: it refuses, breaks off or sends what nobody should read.
        """
        try:
            async with self._http.stream(
                "POST", f"{self._url}/v1/completions", json=body
            ) as response:
                if response.status_code != _OK:
                    raise _refused(response.status_code, await _all(response))
                async with aclosing(_events(response)) as events:
                    yield events
        except httpx.HTTPError as error:
            raise EngineFaultError(
                f"the vLLM server broke off ({type(error).__name__}); the call costs nothing, "
                "try again"
            ) from error

    async def close(self) -> None:
        await self._http.aclose()

    async def _get(self, path: str) -> bytes:
        status, body = await self._ask("GET", path, None, _LOOK_S)
        if status != _OK:
            raise self._strange(f"status {status} to {path}")
        return body

    async def _post(self, path: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        return await self._ask("POST", path, body, _LOAD_S)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.stream(method, self._url + path, json=body) as response,
            ):
                return response.status_code, await _all(response)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, EngineFaultError) as error:
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise UnavailableError(
                f"the vLLM server at {self._url} does not answer ({why}); start it, or set vllm.url"
            ) from error

    def _read(self, body: bytes, kind: type[_Known]) -> _Known:
        try:
            check_depth(body)
            return msgspec.json.decode(body, type=kind)
        except (InvalidInputError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._strange(str(error)) from error

    def _strange(self, what: str) -> UnavailableError:
        return UnavailableError(
            f"{self._url} does not answer as vLLM does ({what}); set vllm.url to a vLLM server"
        )


async def _all(response: httpx.Response) -> bytes:
    found = bytearray()
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > _LARGEST_BODY:
            raise EngineFaultError(
                f"the vLLM server sent more than {_LARGEST_BODY} bytes; look what answers there"
            )
    return bytes(found)


async def _events(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The payload of each event up to the last; comments, which keep a connection open, go by."""
    rest = b""
    async for piece in response.aiter_raw():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                event = line.removeprefix(b"data:").strip()
                if event == DONE:
                    return
                yield event
        if len(rest) > _LARGEST_EVENT:
            raise EngineFaultError(
                f"the vLLM server sent an event of more than {_LARGEST_EVENT} bytes; "
                "the call costs nothing, try again"
            )


def _refused(status: int, body: bytes) -> OpenLedgerError:
    if status == _NOT_FOUND:
        return NotFoundError(f"the vLLM server knows no such model: {told(body)}")
    return EngineFaultError(
        f"the vLLM server refused a request, status {status}: {told(body)}; it costs nothing"
    )
