"""The contracts deployed in one in-process chain, with people, and receipts to settle.

Digests, trees, vouchers and signatures come from the product's own Python, so that every test
here is also a test that both sides agree.
"""

from collections.abc import Callable, Collection
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import boa
import msgspec
from boa.contracts.vyper.vyper_contract import VyperContract, VyperDeployer
from boa.interpret import set_search_paths
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from openledger.core.merkle import Tree
from openledger.core.signing import Domain, TypedRecord, address_of, digest_typed, sign_typed
from openledger.core.types import Account, Digest, Wei, account, as_bytes
from openledger.settlement.epoch import Payout, payout_tree
from openledger.settlement.receipt import NO_PREVIOUS, CallReceipt, payer_commitment
from openledger.settlement.voucher import Channel, channel_id, sign_voucher

CONTRACTS = Path(__file__).parents[2] / "contracts"
ESCROW = "0x00000000000000000000000000000000000E5C0a"
NOBODY = "0x" + "0" * 40
IDENTITY_DELAY, REVEAL_BLOCKS, REVEAL_WINDOW = 100, 2, 1000
SEED_BLOCKS, NOTICE, EXIT_DELAY, PAYOUT_DELAY = 3, 500, 300, 200
FAR = 10**12  # a second that never comes
OPEN = 10**18

set_search_paths([str(CONTRACTS)])


def key(name: str) -> bytes:
    return keccak(text=name)


@cache
def person(name: str) -> Account:
    return address_of(key(name))


def b32(text: str) -> bytes:
    return sha256(text.encode()).digest()


@cache
def deployer_of(name: str) -> VyperDeployer:
    return boa.load_partial(str(CONTRACTS / f"{name}.vy"))


Load = Callable[[str], VyperDeployer]


class World:
    """All six contracts; everybody's OPEN lies with `holder` until given."""

    def __init__(self, load: Load = deployer_of) -> None:
        self.token = load("OpenToken").deploy(person("holder"))
        self.identity = load("Identity").deploy(IDENTITY_DELAY)
        self.datanets = load("Datanets").deploy(self.identity, REVEAL_BLOCKS, REVEAL_WINDOW)
        self.models = load("Models").deploy(self.identity, self.datanets, SEED_BLOCKS, NOTICE)
        self.payouts = load("Payouts").deploy(
            self.token, self.identity, ESCROW, PAYOUT_DELAY, person("guardian")
        )
        self.escrow = load("Escrow").deploy(
            self.token, self.payouts, EXIT_DELAY, override_address=ESCROW
        )
        self.token.approve(self.escrow, 2**256 - 1, sender=person("holder"))
        self._ops = 0

    @property
    def chain_id(self) -> int:
        return int(boa.env.evm.patch.chain_id)

    def domain(self, contract: VyperContract) -> Domain:
        return Domain(self.chain_id, account(str(contract.address)))

    def deposit(self, payer: str, gateway: str, amount: int) -> None:
        self._ops += 1
        self.escrow.deposit(
            person(payer),
            person(gateway),
            amount,
            b32(f"op {self._ops}"),
            sender=person("holder"),
        )

    def sign(
        self, contract: VyperContract, name: str, fields: dict[str, tuple[str, Any]], who: str
    ) -> bytes:
        """Sign a typed struct given as field -> (Solidity type, value)."""
        kind = msgspec.defstruct(
            name,
            [(field, Any) for field in fields],
            bases=(TypedRecord,),
            namespace={"solidity": {field: kind for field, (kind, _) in fields.items()}},
            frozen=True,
        )
        record = kind(*(_plain(value) for _, value in fields.values()))
        return bytes.fromhex(sign_typed(self.domain(contract), record, key(who)))

    def relay(
        self,
        contract: VyperContract,
        function: str,
        who: str,
        *arguments: object,
        **options: object,
    ) -> None:
        """Call `function_for`; options: signer, deadline, nonce, account, send."""
        acting = options.get("account", person(who))
        deadline = options.get("deadline", FAR)
        nonce = options.get("nonce", contract.nonces(acting))
        twin = getattr(contract, f"{function}_for")
        inputs = _inputs(contract, f"{function}_for")[1:-2]
        fields: dict[str, tuple[str, Any]] = {"account": ("address", acting)}
        for entry, value in zip(inputs, arguments, strict=True):
            if entry["type"].startswith("tuple"):
                hashed = keccak(encode([_type(entry)], [value]))
                fields[entry["name"]] = ("bytes32", hashed)
            else:
                fields[entry["name"]] = (entry["type"], value)
        fields |= {"nonce": ("uint256", nonce), "deadline": ("uint256", deadline)}
        name = "".join(word.capitalize() for word in function.split("_"))
        signature = self.sign(contract, name, fields, options.get("signer", who))
        send = options.get("send", partial(twin, sender=person("relayer")))
        send(acting, *arguments, deadline, signature)

    def payout(self, gateway: str, owed: dict[Account, int]) -> "PayoutTree":
        return PayoutTree(self, gateway, owed)


class PayoutTree:
    """One cumulative payout tree of a gateway."""

    def __init__(self, world: World, gateway: str, owed: dict[Account, int]) -> None:
        self.world, self.gateway, self.owed = world, person(gateway), owed
        payouts = [Payout(who, Wei(owed[who])) for who in sorted(owed)]
        contract = account(str(world.payouts.address))
        self.order = sorted(owed)
        self.tree = payout_tree(world.domain(world.payouts), contract, self.gateway, payouts)
        self.root, self.size = as_bytes(self.tree.root), self.tree.size
        self.total = sum(owed.values())

    def propose(self) -> None:
        self.world.payouts.propose(
            self.gateway, self.root, self.size, self.total, sender=self.gateway
        )

    def activate(self) -> int:
        self.propose()
        boa.env.time_travel(seconds=PAYOUT_DELAY)
        self.world.payouts.activate(self.gateway)
        return int(self.world.payouts.root_count(self.gateway))

    def claim(self, who: Account, number: int) -> tuple[Any, ...]:
        """gateway, number, cumulative, index, proof."""
        index = self.order.index(who)
        path = [as_bytes(step) for step in self.tree.prove(index).path]
        return (self.gateway, number, self.owed[who], index, path)


class Draw:
    """One element of `settle`'s draws; change a field, then `tuple()`."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields

    def tuple(self, **changes: object) -> tuple[Any, ...]:
        return tuple((self.fields | changes).values())


class Book:
    """A gateway's receipt chain."""

    def __init__(self, world: World, gateway: str) -> None:
        self.world, self.gateway = world, gateway
        self.first, self.drawn, self.total = 1, 0, 0
        self.totals: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.previous = NO_PREVIOUS
        self.calls: list[tuple[str, CallReceipt, bytes]] = []  # payer, receipt, leaf

    def call(self, payer: str, fee: int, **changes: object) -> None:
        """Append a receipt; `changes` falsify fields of it."""
        self.totals[payer] = self.totals.get(payer, 0) + fee
        self.counts[payer] = self.counts.get(payer, 0) + 1
        self.total += fee
        receipt = CallReceipt(
            version=1,
            chain_id=self.world.chain_id,
            escrow=account(str(self.world.escrow.address)),
            gateway=person(self.gateway),
            gateway_sequence=self.first + len(self.calls),
            payer_sequence=self.counts[payer],
            payer_total=Wei(self.totals[payer]),
            gateway_total=Wei(self.total),
            previous=self.previous,
            fee=Wei(fee),
            terms_version=1,
            payer_commitment=payer_commitment(person(payer), b32("salt " + payer)),
            body=Digest(b32("body").hex()),
        )
        receipt = msgspec.structs.replace(receipt, **changes)
        digest = digest_typed(self.world.domain(self.world.escrow), receipt)
        self.previous = digest
        self.calls.append((payer, receipt, as_bytes(digest) + b32("statement")))

    def draws(self, stale: Collection[str] = (), **channel: object) -> tuple[bytes, list[Draw]]:
        """Root and draws of the open epoch: the last receipt of every payer.

        Vouchers of `stale` payers have expired.
        """
        tree = Tree([leaf for _, _, leaf in self.calls])
        last = {payer: index for index, (payer, _, _) in enumerate(self.calls)}
        draws = [
            self.draw(tree, index, **(channel | ({"expiry": 1} if payer in stale else {})))
            for payer, index in sorted(last.items(), key=lambda item: item[1])
        ]
        return as_bytes(tree.root), draws

    def draw(self, tree: Tree, index: int, **changes: object) -> Draw:
        payer, receipt, leaf = self.calls[index]
        limit = changes.pop("limit", self.totals[payer])
        channel, voucher = self.voucher(payer, limit, **changes)
        return Draw(
            channel=channel,
            limit=limit,
            voucher=voucher,
            receipt=_receipt_tuple(receipt),
            attribution=leaf[32:],
            payer_salt=b32("salt " + payer),
            index=index,
            proof=[as_bytes(step) for step in tree.prove(index).path],
        )

    def voucher(self, payer: str, limit: int, **changes: object) -> tuple[tuple[Any, ...], bytes]:
        signer = changes.pop("signer", payer)
        conditions = {
            "payer": person(payer),
            "gateway": person(self.gateway),
            "expiry": FAR,
            "price_ceiling": Wei(10**18),
            "daily_cap": Wei(10**20),
            "min_data_bps": 5000,
            "salt": Digest(b32("channel").hex()),
        }
        channel = Channel(**(conditions | changes))
        domain = self.world.domain(self.world.escrow)
        token = account(str(self.world.token.address))
        signed = sign_voucher(domain, token, channel, Wei(limit), key(signer))
        return _plain_tuple(channel), bytes.fromhex(signed.signature)

    def settle(self, stale: Collection[str] = ()) -> int:
        """Settle the open epoch; what its receipts say."""
        root, draws = self.draws(stale)
        self.submit(root, draws)
        drawn = self.total - self.drawn
        self.first += len(self.calls)
        self.drawn = self.total
        self.calls = []
        return drawn

    def submit(self, root: bytes, draws: list[Draw], **options: object) -> None:
        """Send `settle`; options: first, size, sender."""
        self.world.escrow.settle(
            person(self.gateway),
            options.get("first", self.first),
            options.get("size", len(self.calls)),
            root,
            [draw if isinstance(draw, tuple) else draw.tuple() for draw in draws],
            sender=options.get("sender", person(self.gateway)),
        )


def channel_of(world: World, channel: Channel) -> Digest:
    return channel_id(world.domain(world.escrow), account(str(world.token.address)), channel)


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _plain_tuple(record: Channel) -> tuple[Any, ...]:
    fields = msgspec.structs.astuple(record)
    return (*fields[:-1], as_bytes(record.salt))


def _receipt_tuple(receipt: CallReceipt) -> tuple[Any, ...]:
    return tuple(
        as_bytes(Digest(value)) if receipt.solidity[name] == "bytes32" else value
        for name, value in zip(receipt.solidity, msgspec.structs.astuple(receipt), strict=True)
    )


def _inputs(contract: VyperContract, function: str) -> list[dict[str, Any]]:
    found = [entry for entry in contract.abi if entry.get("name") == function]
    return list(found[0]["inputs"])


def _type(entry: dict[str, Any]) -> str:
    if not entry["type"].startswith("tuple"):
        return str(entry["type"])
    inner = ",".join(_type(part) for part in entry["components"])
    return f"({inner}){entry['type'].removeprefix('tuple')}"
