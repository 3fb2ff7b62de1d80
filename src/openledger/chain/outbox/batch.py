"""Which queued rows may be signed now: those whose run succeeds on the chain as it stands."""

from collections.abc import Sequence

import msgspec

from openledger.chain.client import Client, Message
from openledger.chain.outbox.rows import Row, State
from openledger.chain.outbox.tracking import Change
from openledger.chain.relay import Relay
from openledger.core.errors import ChainRejectedError, InvalidInputError, UnavailableError
from openledger.core.types import Account


class Ready(msgspec.Struct, frozen=True):
    """A row that would succeed, and the gas to give it."""

    row: Row
    message: Message
    gas: int


class Batch:
    """Rows admitted one by one, in the order of the queue.

    Args:
        client: the chain to try them on.
        relay: makes the twins of relayed acts; None before the contracts are deployed.
        in_flight: rows of the same sender that are signed and not mined.
    """

    def __init__(self, client: Client, relay: Relay | None, in_flight: Sequence[Row]) -> None:
        self._client = client
        self._relay = relay
        self._in_flight = len(in_flight)
        # A contract counts an account's signed acts: the next one needs the last one mined.
        self._acting = {self._actor(row) for row in in_flight if row.acting is not None}
        self.ready: list[Ready] = []
        self.failed: list[Change] = []

    def admits(self, row: Row) -> bool:
        """Take a row, as ready or as failed; False when it has to wait, and all behind it.

        Raises:
            ChainUnavailableError: the chain does not answer.
            ChainRejectedError: the node, not the contract, would not run it.
        """
        on_the_way = self._in_flight + len(self.ready)
        is_next_act = row.acting is not None and self._actor(row) in self._acting
        if is_next_act or on_the_way >= self._client.config.most_in_flight:
            return False
        try:
            self.ready.append(self._try(row))
        except InvalidInputError as error:
            self._fail(row, str(error))
        except ChainRejectedError as error:
            if error.details.get("kind") != "run":
                raise
            if on_the_way:
                return False  # it may depend on one of those
            self._fail(row, error.details["reason"])
        else:
            if row.acting is not None:
                self._acting.add(self._actor(row))
        return True

    def _try(self, row: Row) -> Ready:
        message = Message(row.sender, row.contract, self._calldata(row), row.value)
        gas = self._client.estimate(message)
        margin = self._client.config.gas_margin_percent
        return Ready(row, message, gas * (100 + margin) // 100)

    def _fail(self, row: Row, reason: str) -> None:
        self.failed.append(Change(row.position, {"state": State.FAILED.value, "error": reason}))

    def _calldata(self, row: Row) -> bytes:
        if row.acting is None:
            return row.calldata
        return self._needed().twin(row.label, row.calldata, row.acting)

    def _actor(self, row: Row) -> tuple[Account, Account]:
        assert row.acting is not None
        return row.contract, self._needed().actor(row.label, row.calldata, row.acting)

    def _needed(self) -> Relay:
        if self._relay is None:
            raise UnavailableError("acts wait until the contracts are deployed")
        return self._relay
