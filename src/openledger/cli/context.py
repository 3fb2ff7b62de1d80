"""What every command gets: its settings, its output, and a way to act on the home.

While a server owns the home, operations go to it over loopback; otherwise the command opens the
home itself. Both do an operation in the same way (`openledger.web.operations`), which only the
latter has to load.
"""

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import typer

from openledger.cli.output import Output

if TYPE_CHECKING:
    from openledger.operations.operation import Operation
    from openledger.settings import Settings
    from openledger.storage.home import Server

Arguments = TypeVar("Arguments", bound=msgspec.Struct)
Result = TypeVar("Result", bound=msgspec.Struct)


@dataclass(frozen=True)
class Context:
    """The global options of one invocation."""

    flags: Mapping[str, Mapping[str, object]]
    as_json: bool
    is_quiet: bool

    @cached_property
    def output(self) -> Output:
        return Output(as_json=self.as_json, is_quiet=self.is_quiet)

    @cached_property
    def settings(self) -> "Settings":
        from openledger.settings import load

        return load(self.flags)

    @property
    def home(self) -> Path:
        """The home's folder."""
        return Path(self.settings.home.path).expanduser()

    def server(self) -> "Server | None":
        """The living server of this home."""
        from openledger.storage.home import Home, read_server

        return read_server(Home(self.home))

    def act(self, operation: "Operation[Arguments, Result]", arguments: Arguments) -> Result:
        """Run one operation, through the server that owns the home or by opening it.

        Raises:
            OpenLedgerError: what the operation raises, from the server as well.
        """
        server = self.server()
        if server is not None:
            from openledger.client.operations import call_server

            return call_server(
                server.url, server.token, operation.name, arguments, operation.result
            )
        import structlog

        with importing():
            from openledger.web.operations.registry import run
            from openledger.wiring.platform import open_platform

        # Standard output is for the result alone. The stream is looked up at each use: it may have
        # been replaced meanwhile.
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
        with open_platform(self.settings) as platform:
            return run(platform, operation, arguments)


@contextmanager
def importing() -> Iterator[None]:
    """Around imports that take seconds: a fifth of that goes into looking for garbage among them.

    They make next to none, and what they make stays for the life of the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def of(context: typer.Context) -> Context:
    """Our part of Typer's context."""
    found = context.find_root().obj
    assert isinstance(found, Context)
    return found
