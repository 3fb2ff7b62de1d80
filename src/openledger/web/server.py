"""A home's server: every route wired to its platform, until it is told to stop."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from openledger.core.encoding import from_wire, to_wire
from openledger.core.errors import NotFoundError, UnavailableError
from openledger.core.ids import did_you_mean
from openledger.storage.home import Server, new_token, remove_server, write_server
from openledger.web.app import Config, Parts, create_app
from openledger.web.inference import Payer
from openledger.web.listening import drop_slow_readers, listen, names
from openledger.web.operations.registry import IMPLEMENTATIONS, run
from openledger.web.parts.books import BaseCard, GatewayBooks, KeyBook, ReleaseCatalogue
from openledger.web.parts.embedder import Allowance, BaseEmbeddings
from openledger.web.parts.evidence import evidence_of
from openledger.web.parts.readiness import Readiness
from openledger.web.parts.till import Till
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform, now_us

_START_TIMEOUT_S = 30.0
_STEP_S = 0.02
_BESIDES_FILES_BYTES = 1 << 20  # of an operation's body: names, licences, JSON


class RunningServer:
    """A server in a thread of its own."""

    def __init__(self, platform: Platform, port: int) -> None:
        """Bind the port; 0 takes a free one.

        Raises:
            UnavailableError: the port is taken.
            InvalidInputError: this machine does not listen there.
        """
        settings = platform.settings.serve
        self._platform = platform
        self._listening = listen(settings.host, port)
        drop_slow_readers(self._listening.sockets, settings.slow_reader_s)
        self.token = new_token()
        self.url = self._listening.url
        config = Config(
            hosts=names(settings.host, settings.hosts),
            max_upload_bytes=body_bytes(settings.max_body_mb << 20),
            slow_reader_s=settings.slow_reader_s,
        )
        app = create_app(parts(platform, self.token), config)
        patience = uvicorn.Config(
            app,
            log_config=None,
            timeout_keep_alive=30,
            # Without it one caller who never ends his request would keep the server alive.
            timeout_graceful_shutdown=settings.stop_timeout_s,
        )
        self._server = uvicorn.Server(patience)
        self._thread = threading.Thread(target=self._run, name="openledger-http", daemon=True)

    def start(self) -> None:
        """Serve, and say so in server.json once requests are answered."""
        self._thread.start()
        end = time.monotonic() + _START_TIMEOUT_S
        while not self._server.started:
            if time.monotonic() > end or not self._thread.is_alive():
                raise UnavailableError(f"the server did not start at {self.url}")
            time.sleep(_STEP_S)
        write_server(self._platform.home, Server(self.url, self.token, os.getpid()))

    def stop(self) -> None:
        """Answer what is under way, for `serve.stop_timeout_s` at most, then stop."""
        remove_server(self._platform.home)
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        self._server.run(sockets=list(self._listening.sockets))


@contextmanager
def serving(platform: Platform, port: int) -> Iterator[RunningServer]:
    """Serve a home, its worker included, until the block ends.

    Raises:
        UnavailableError: the port is taken.
    """
    server = RunningServer(platform, port)
    worker = worker_of(platform)
    worker.start()
    try:
        server.start()
        yield server
    finally:
        server.stop()
        worker.stop()


def body_bytes(files_bytes: int) -> int:
    """How large a body may be that brings so many bytes of files: in JSON they are base64."""
    return -(-files_bytes // 3) * 4 + _BESIDES_FILES_BYTES


def parts(platform: Platform, token: str) -> Parts:
    """What the routes call, over a platform."""
    models = platform.models
    desk = models.desk
    manifest = models.base_manifest
    embeddings = _embeddings(platform, manifest.name)
    context = desk.engine.caps.context
    card = BaseCard(manifest.name, context, manifest.owner, embeds=embeddings is not None)
    return Parts(
        inferences=Till(desk),
        catalogue=ReleaseCatalogue(platform.database, card, desk.engine),
        keys=KeyBook(platform.database, now_us, token, platform.gateway.account),
        books=GatewayBooks(platform.database, platform.gateway.account),
        pace=_no_limit,
        stats=desk.engine.stats,
        answered=desk.meter.answered,
        embeddings=embeddings,
        unready=Readiness(platform.database, desk.engine, platform.chain.client.ping).reason,
        evidence=lambda asked: evidence_of(platform.database, models.show_evidence, asked),
        rpc=platform.chain.rpc,
        operations=lambda name, body: run_operation(platform, name, body),
        token=token,
    )


def _embeddings(platform: Platform, base: str) -> BaseEmbeddings | None:
    models, allowed = platform.models, platform.settings.serve.embed_tokens
    if models.embedder is None or not allowed:
        return None
    return BaseEmbeddings(models.embedder, models.desk.tokenizer, base, Allowance(allowed))


def run_operation(platform: Platform, name: str, body: bytes) -> bytes:
    """Run an operation by name, in its wire form.

    Raises:
        NotFoundError: there is no such operation.
        OpenLedgerError: what the operation raises.
    """
    if name not in IMPLEMENTATIONS:
        near = did_you_mean(name, IMPLEMENTATIONS)
        raise NotFoundError(f"there is no operation {name!r}{near}")
    operation = IMPLEMENTATIONS[name].operation
    return to_wire(run(platform, operation, from_wire(body, operation.arguments)))


def _no_limit(_: Payer) -> None:
    """On loopback the engine's bounded queue is limit enough."""
