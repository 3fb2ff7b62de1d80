"""`openledger serve`: own the home and answer the API until interrupted."""

import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from openledger.cli.context import importing, of
from openledger.cli.output import told


def serve(
    context: typer.Context,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port on loopback; 0: a free one.")
    ] = None,
) -> None:
    """Serve the OpenAI-compatible API of this home on loopback, until Ctrl-C."""
    with told((here := of(context)).output):
        # Inside, so that a package that is not installed is told with its cure.
        with importing():
            from openledger.web.server import serving
            from openledger.wiring.platform import open_platform

        wanted = here.settings.serve.port if port is None else port
        with open_platform(here.settings) as platform, serving(platform, wanted) as server:
            here.output.talk(f"serving {server.url}/v1; Ctrl-C stops")
            until_interrupted()
            here.output.talk(
                "stopping; answers are finished first, a run goes on at the next start; "
                "Ctrl-C ends at once"
            )


def until_interrupted() -> None:
    """Wait for Ctrl-C or a polite kill; the next one ends the process at once."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        # No KeyboardInterrupt for the second: it would only start to tidy up once more, and what
        # is stored survives a kill.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    stop.wait()
