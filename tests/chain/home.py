"""All parts of the chain room, wired as a platform wires them."""

import time
from hashlib import sha256
from pathlib import Path

from openledger.chain.client import Client
from openledger.chain.config import EMBEDDED, ChainProfile, Config
from openledger.chain.contracts import OPERATOR, Contracts, ContractSettings, Write
from openledger.chain.deployment import Builder, deploy
from openledger.chain.devchain.node import DevChain
from openledger.chain.devchain.rpc import DirectTransport
from openledger.chain.index.indexer import Indexer
from openledger.chain.keys import Keyring
from openledger.chain.outbox.outbox import Outbox, Outcome
from openledger.chain.outbox.rows import op_id
from openledger.chain.relay import Relay
from openledger.chain.wire.transport import Transport
from openledger.core.types import Account, Digest, as_bytes
from openledger.storage.database import Database
from openledger.storage.tables import metadata

SETTINGS = ContractSettings()
TIMEOUT_S = 60.0


def clock() -> int:
    return time.time_ns() // 1_000


def digest(text: str) -> Digest:
    return Digest(sha256(text.encode()).hexdigest())


class Home:
    """A home on the embedded chain, or on the node behind a transport."""

    def __init__(
        self,
        folder: Path,
        transport: Transport | None = None,
        profile: ChainProfile = EMBEDDED,
    ) -> None:
        self.folder = folder
        self.keyring = Keyring(b"\x09" * 32)
        self.operator = self.keyring.account(OPERATOR)
        self.chain: DevChain | None = None
        if transport is None:
            allocation = {as_bytes(self.operator): 10**24}
            self.chain = DevChain(folder / "chain" / "chain.db", 31_337, allocation, time.time)
            transport = DirectTransport(self.chain)
        self.client = Client(transport, Config(profile=profile))
        self.database = Database(folder / "openledger.db")
        metadata.create_all(self.database.engine)
        self.outbox = Outbox(self.database, self.client, self.keyring, clock, owner="home")

    def builder(self) -> Builder:
        return Builder(self.client, self.database, self.outbox, self.keyring)

    def deploy(self) -> None:
        record = self.folder / "chain" / "deployment.json"
        self.deployment = deploy(record, self.builder(), lambda: SETTINGS)
        self.contracts = Contracts(self.client, self.deployment)
        self.outbox.relay = Relay(self.contracts, self.keyring, clock)
        self.indexer = Indexer(self.database, self.contracts, clock)

    def do(self, *writes: Write) -> list[Outcome]:
        """Queue writes under fresh names and see them through."""
        ops: list[Digest] = []
        with self.database.transaction() as transaction:
            for place, write in enumerate(writes):
                ops.append(op_id("test", time.time_ns(), place))
                self.outbox.submit(transaction, ops[-1], write)
        return self.outbox.confirm(ops, TIMEOUT_S)

    def act(self, label: str, contract: str, function: str, *arguments: object) -> Outcome:
        write = self.contracts.write(contract, function, *arguments, acting=label)  # type: ignore[arg-type]  # tests pass plain values
        return self.do(write)[0]

    def account(self, label: str) -> Account:
        return self.keyring.account(label)

    def close(self) -> None:
        self.database.close()
        if self.chain is not None:
            self.chain.close()
