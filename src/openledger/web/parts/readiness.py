"""Whether this server can do what it is there for, or the first reason why not."""

from collections.abc import Callable

from openledger.core.errors import OpenLedgerError
from openledger.serving.engine import Engine
from openledger.storage.database import Database
from openledger.storage.records.model import releases


class Readiness:
    """Looks afresh at each question; see `app.Parts.unready`."""

    def __init__(self, database: Database, engine: Engine, ask_chain: Callable[[], object]) -> None:
        """`ask_chain` raises when the chain does not answer; it is asked once, without patience."""
        self._database = database
        self._engine = engine
        self._ask_chain = ask_chain

    def reason(self) -> str | None:
        """Why not ready, with the cure; None: ready."""
        if not self._engine.is_alive:
            return "the engine has stopped; restart the server, or the vLLM server behind it"
        try:
            missing = self._missing()
            self._ask_chain()
        except OpenLedgerError as error:
            return str(error)
        if missing:
            names = ", ".join(missing)
            return f"{names} cannot be loaded; see the log, restore the adapter or deprecate it"
        return None

    def _missing(self) -> list[str]:
        known = {one.digest for one in self._engine.residency()}
        with self._database.read() as transaction:
            served = releases.list_served(transaction)
        return [release.full_name for release in served if release.adapter not in known]
