"""An outbox on a fake chain, with a clock that only tests move."""

from pathlib import Path

from openledger.chain.client import Client
from openledger.chain.config import ChainProfile, Config
from openledger.chain.contracts import Write
from openledger.chain.keys import Keyring
from openledger.chain.outbox.outbox import Outbox
from openledger.chain.outbox.rows import op_id
from openledger.core.types import Account, Digest
from openledger.storage.database import Database
from openledger.storage.tables import leases, metadata, outbox
from tests.chain.fake_chain import FakeChain

PROFILE = ChainProfile("fake", chain_id=7, finality="finalized", max_fee_wei=100 * 10**9)
CONFIG = Config(profile=PROFILE, read_attempts=1, most_in_flight=4)
TARGET = Account("0x" + "77" * 20)


class World:
    """The parts, and what a test does with them."""

    def __init__(self, folder: Path, chain: FakeChain | None = None) -> None:
        self.chain = chain or FakeChain()
        self.database = Database(folder / "outbox.db")
        metadata.create_all(self.database.engine, tables=[outbox, leases])
        self.keyring = Keyring(b"\x05" * 32)
        self.now = 1_000_000_000
        self.outbox = self.open()

    def open(self, owner: str | None = None) -> Outbox:
        """A new process on the same database."""
        client = Client(self.chain, CONFIG, sleep=self.pass_time)
        return Outbox(self.database, client, self.keyring, lambda: self.now, self.pass_time, owner)

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)

    def submit(self, calldata: bytes, sender: str = "operator") -> Digest:
        op = op_id(calldata.hex())
        with self.database.transaction() as transaction:
            write = Write("Fake.act", TARGET, calldata, sender=sender)
            self.outbox.submit(transaction, op, write)
        return op

    def settle(self, rounds: int = 60) -> None:
        """Pump and mine until nothing waits."""
        for _ in range(rounds):
            if not self.outbox.pump().waiting:
                return
            self.chain.mine(4)
            self.pass_time(40)
        report = self.outbox.pump()
        assert not report.waiting, report
