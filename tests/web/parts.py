"""A whole server's parts in memory: one key, one model, scripted answers, a purse."""

import asyncio
import json
from collections.abc import Iterator
from threading import Event, Lock

import httpx
import msgspec
import numpy as np
from starlette.types import Message

from openledger.core.errors import (
    EngineFaultError,
    InsufficientBalanceError,
    InvalidInputError,
    ModelNotFoundError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from openledger.core.ids import did_you_mean, parse_model, receipt_id
from openledger.core.types import Account, ReceiptId, Wei
from openledger.flows.money.infer.meter import Meter
from openledger.settlement.price import Price
from openledger.web.app import Config, Parts, create_app
from openledger.web.embeddings import EmbeddingCall, Vectors
from openledger.web.inference import InferenceRequest, InferenceResult, Payer, RolePart
from openledger.web.openai_api import ModelCard
from openledger.web.platform_api import Balance, ReceiptView
from tests.fakes import FakeEngine

KEY = "sk-ol-test"
ALICE = Account("0x" + "a" * 40)
MODEL = "folk/reels@2"
EMBEDDER = "SmolLM2"
PIECES = ("X:1\n", "T:The ", "Cliffs\n", "K:G\n")
RECEIPT = receipt_id(bytes(range(16)))
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


class ScriptedInference:
    """Answers with `PIECES`; waits at the gate before each when it is closed."""

    def __init__(self, request: InferenceRequest, gate: Event, begun: Event, breaks: bool) -> None:
        self.request = request
        self.receipt_id = RECEIPT
        self.model = MODEL
        self.fingerprint = "fp_0123"
        self.taken: list[str] = []
        self.is_cancelled = Event()
        self.handed: int | None = None  # pieces that reached a caller who hung up
        self._gate = gate
        self._begun = begun
        self._breaks = breaks
        self._lock = Lock()

    def __iter__(self) -> Iterator[str]:
        for place, piece in enumerate(PIECES):
            self._begun.set()
            while not self._gate.wait(0.01):
                if self.is_cancelled.is_set():
                    return
            if self._breaks and place == 2:
                raise EngineFaultError("the engine broke; it costs nothing, try again")
            self.taken.append(piece)
            yield piece

    def result(self) -> InferenceResult:
        parts = (RolePart("platform", Wei(10**14)), RolePart("data", Wei(9 * 10**14)))
        return InferenceResult(
            "".join(self.taken), "stop", 7, 4, Wei(10**15), parts, cached_tokens=3
        )

    def cancel(self, pieces: int) -> None:
        self.handed = pieces
        self.is_cancelled.set()


class ScriptedVectors:
    """Vectors of three numbers that follow from the inputs; waits at the gate."""

    def __init__(self, call: EmbeddingCall, gate: Event, begun: Event, breaks: bool) -> None:
        self.call = call
        self.is_cancelled = Event()
        self._gate = gate
        self._begun = begun
        self._breaks = breaks

    def result(self) -> Vectors:
        self._begun.set()
        while not self._gate.wait(0.01):
            if self.is_cancelled.is_set():
                raise UnavailableError("cancelled")
        if self._breaks:
            raise EngineFaultError("the engine broke; it costs nothing, try again")
        rows = [[0.1, len(one), place] for place, one in enumerate(self.call.inputs)]
        vectors = tuple(np.array(row[: self.call.dimensions], np.float32) for row in rows)
        return Vectors(vectors, sum(len(one) for one in self.call.inputs))

    def cancel(self) -> None:
        self.is_cancelled.set()


class ScriptedEmbeddings:
    """One embedding model."""

    def __init__(self, server: "Server") -> None:
        self.started: list[ScriptedVectors] = []
        self._server = server

    def start(self, call: EmbeddingCall) -> ScriptedVectors:
        if call.model != EMBEDDER:
            near = did_you_mean(call.model, [EMBEDDER])
            raise NotFoundError(f"no embedding model {call.model}{near}", param="model")
        server = self._server
        self.started.append(ScriptedVectors(call, server.gate, server.begun, server.breaks))
        return self.started[-1]


class Server:
    """The parts, and what they were asked."""

    def __init__(self) -> None:
        self.started: list[ScriptedInference] = []
        self.gate = Event()
        self.gate.set()
        self.begun = Event()  # an answer asked for its first piece
        self.breaks = False
        self.reason: str | None = None
        self.engine = FakeEngine()
        self.meter = Meter()
        self.rpc_calls: list[bytes] = []
        self.embeddings = ScriptedEmbeddings(self)

    def parts(self) -> Parts:
        return Parts(
            inferences=self,
            catalogue=self,
            keys=self,
            books=self,
            pace=self.pace,
            stats=self.engine.stats,
            answered=self.meter.answered,
            unready=lambda: self.reason,
            embeddings=self.embeddings,
            rpc=self.rpc,
        )

    def start(self, request: InferenceRequest) -> ScriptedInference:
        if request.max_tokens is not None and request.max_tokens < 1:
            raise InvalidInputError(f"max_tokens is {request.max_tokens}; ask for at least 1")
        if request.max_cost == 0:
            raise InsufficientBalanceError("this call may cost more than max_cost")
        for member in parse_model(request.model):
            self.model(str(member.name))
        inference = ScriptedInference(request, self.gate, self.begun, self.breaks)
        self.started.append(inference)
        return inference

    def models(self) -> tuple[ModelCard, ...]:
        price = Price(Wei(10**15), Wei(5 * 10**15), Wei(10**13))
        return (ModelCard(MODEL, "folk", 1_700_000_000, "SmolLM2", 2_048, price),)

    def model(self, name: str) -> ModelCard:
        for card in self.models():
            if name in (card.name, card.name.partition("@")[0]):
                return card
        raise ModelNotFoundError(f"no model {name}{did_you_mean(name, [MODEL])}", param="model")

    def identify(self, key: str) -> Payer:
        if key != KEY:
            raise UnauthenticatedError("this API key is unknown or revoked; make a new one")
        return Payer(ALICE, key="sk-ol-te")

    def receipt(self, receipt: ReceiptId) -> ReceiptView:
        if receipt != RECEIPT:
            raise NotFoundError(f"no receipt {receipt}")
        return ReceiptView(False, msgspec.Raw(b'{"fee":"1"}'))

    def balance(self, account: Account) -> Balance:
        return Balance(account, Wei(10**19), Wei(1), Wei(2), Wei(10**19 - 3))

    def pace(self, payer: Payer) -> None:
        assert payer.account == ALICE

    def rpc(self, raw: bytes) -> bytes:
        self.rpc_calls.append(raw)
        return b'{"jsonrpc":"2.0","id":1,"result":"0x1"}'


DEFAULTS = Config()


def client(server: Server, config: Config = DEFAULTS, **changes: object) -> httpx.AsyncClient:
    """A client that talks to the application without a socket."""
    app = create_app(msgspec.structs.replace(server.parts(), **changes), config)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:8700", headers=AUTHORIZED
    )


class Connection:
    """An ASGI connection whose caller hangs up, or takes nothing more, when told."""

    def __init__(
        self,
        body: object,
        fails_at: int | None = None,
        stuck_at: int | None = None,
        *,
        path: str = "/v1/chat/completions",
        is_cut: bool = False,
    ) -> None:
        self.sent: list[Message] = []
        self.hang_up = asyncio.Event()
        self._raw = json.dumps(body).encode()
        self._is_read = False
        self._fails_at = fails_at
        self._stuck_at = stuck_at
        self._path = path
        self._is_cut = is_cut  # its body never ends

    async def receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self._raw, "more_body": self._is_cut}
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.sent) == self._fails_at:
            raise OSError("the caller is gone")
        if len(self.sent) == self._stuck_at:
            await asyncio.Event().wait()

    async def run(self, server: Server, config: Config = DEFAULTS) -> None:
        headers = [
            (b"host", b"localhost"),
            (b"authorization", AUTHORIZED["Authorization"].encode()),
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8700),
        }
        await create_app(server.parts(), config)(scope, self.receive, self.send)
