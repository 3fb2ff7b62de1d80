"""The gas of every external function, against the snapshot `contracts/gas.json`.

What a transaction would use: 21,000, calldata, execution; refunds left out. Views count their
execution alone. `scripts/contracts --gas` writes the snapshot.
"""

import json
from collections.abc import Callable
from typing import Any

import boa
import pytest
from boa.contracts.vyper.vyper_contract import VyperContract
from eth_abi.abi import encode
from eth_utils.address import to_canonical_address
from eth_utils.crypto import keccak
from world import (
    CONTRACTS,
    EXIT_DELAY,
    FAR,
    IDENTITY_DELAY,
    NOTICE,
    PAYOUT_DELAY,
    REVEAL_BLOCKS,
    SEED_BLOCKS,
    Book,
    World,
    b32,
    person,
)

from openledger.core.merkle import Tree
from openledger.core.types import as_bytes

SNAPSHOT = CONTRACTS / "gas.json"
BASE, ZERO_BYTE, OTHER_BYTE = 21_000, 4, 16
PRICE = (10**15, 2 * 10**15, 10**14)
POLICY = (1000, 2000, 1400, 300, 300, 5000, 0, 0)


class Meter:
    """Calls functions as transactions of their own and notes their gas."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.used: dict[str, dict[str, int]] = {}
        self.names = {
            world.token.address: "OpenToken",
            world.identity.address: "Identity",
            world.datanets.address: "Datanets",
            world.models.address: "Models",
            world.payouts.address: "Payouts",
            world.escrow.address: "Escrow",
        }

    def __call__(
        self, contract: VyperContract, label: str, *arguments: object, by: str = "x"
    ) -> None:
        """`label` is the function, perhaps with a remark: "settle, 32 payers"."""
        name = label.partition(",")[0]
        function = getattr(contract, name)
        entry = next(e for e in contract.abi if e.get("name") == name)
        data = function.prepare_calldata(*arguments)
        gas = execute(contract, person(by), data)
        if entry["stateMutability"] == "nonpayable":
            zeros = data.count(0)
            gas += BASE + ZERO_BYTE * zeros + OTHER_BYTE * (len(data) - zeros)
        self.used.setdefault(self.names[contract.address], {})[label] = gas

    def relayed(self, contract: VyperContract, function: str, who: str, *arguments: object) -> None:
        """`function_for`, signed by `who`."""
        sent: list[tuple[Any, ...]] = []
        self.world.relay(
            contract, function, who, *arguments, send=lambda *values: sent.append(values)
        )
        self(contract, f"{function}_for", *sent[0], by="relayer")


def execute(contract: VyperContract, sender: str, data: bytes) -> int:
    """Gas of one call as the first of a transaction: nothing dirty, nothing warm but its parts.

    titanoboa runs all calls in one endless transaction, so this draws the line itself.
    """
    state = boa.env.evm.vm.state
    state.lock_changes()
    state.clear_transient_storage()
    boa.env.evm.reset_access_counters()
    precompiles = [number.to_bytes(20, "big") for number in range(1, 11)]
    for address in (to_canonical_address(sender), contract.address.canonical_address):
        state.mark_address_warm(address)
    for address in precompiles:
        state.mark_address_warm(address)
    computation = boa.env.raw_call(contract.address, sender=sender, data=data)
    return int(computation.get_gas_used())


def measure(world: World) -> dict[str, dict[str, int]]:
    meter = Meter(world)
    for step in (token, identity, datanets, models, escrow, payouts, views):
        step(world, meter)
    return {name: dict(sorted(meter.used[name].items())) for name in sorted(meter.used)}


def token(world: World, meter: Meter) -> None:
    t, holder = world.token, person("holder")
    meter(t, "transfer, new receiver", person("bob"), 7, by="holder")
    meter(t, "transfer", person("bob"), 7, by="holder")
    meter(t, "approve", person("bob"), 9, by="holder")
    meter(t, "transferFrom", holder, person("bob"), 3, by="bob")
    fields = {
        "owner": ("address", holder),
        "spender": ("address", person("carol")),
        "value": ("uint256", 9),
        "nonce": ("uint256", 0),
        "deadline": ("uint256", FAR),
    }
    signature = _vrs(world.sign(t, "Permit", fields, "holder"))
    meter(t, "permit", holder, person("carol"), 9, FAR, *signature)
    for name in ("Transfer", "Receive"):
        fields = {
            "from": ("address", holder),
            "to": ("address", person("bob")),
            "value": ("uint256", 4),
            "validAfter": ("uint256", 0),
            "validBefore": ("uint256", FAR),
            "nonce": ("bytes32", b32(name)),
        }
        signature = _vrs(world.sign(t, f"{name}WithAuthorization", fields, "holder"))
        label = f"{name.lower()}WithAuthorization"
        meter(t, label, holder, person("bob"), 4, 0, FAR, b32(name), *signature, by="bob")
    fields = {"authorizer": ("address", holder), "nonce": ("bytes32", b32("void"))}
    signature = _vrs(world.sign(t, "CancelAuthorization", fields, "holder"))
    meter(t, "cancelAuthorization", holder, b32("void"), *signature)


def identity(world: World, meter: Meter) -> None:
    i, ida, ivo = world.identity, person("ida"), person("ivo")
    keys = (person("phone"), person("purse"), person("safe"))
    meter(i, "register", *keys[1:], by="ida")
    meter.relayed(i, "register", "ivo", *keys[1:])
    meter(i, "propose_change", ida, *keys, by="ida")
    meter(i, "cancel_change", ida, by="ida")
    fields = {
        "account": ("address", ivo),
        "controller": ("address", keys[0]),
        "payee": ("address", keys[1]),
        "recovery": ("address", keys[2]),
        "nonce": ("uint256", 1),
        "deadline": ("uint256", FAR),
    }
    signature = world.sign(i, "ProposeChange", fields, "ivo")
    meter(i, "propose_change_for", ivo, *keys, FAR, signature)
    meter.relayed(i, "cancel_change", "ivo")
    i.propose_change(ida, *keys, sender=ida)
    boa.env.time_travel(seconds=IDENTITY_DELAY)
    meter(i, "apply_change", ida)


def datanets(world: World, meter: Meter) -> None:
    d = world.datanets
    meter(d, "create", b32("folk"), b32("rules"), 5000, 30, by="olga")
    meter.relayed(d, "create", "olga", b32("songs"), b32("rules"), 5000, 30)
    for number in range(1, 5):
        unique = keccak(
            encode(
                ["bytes32", "uint256", "address", "uint256", "address", "bytes32"],
                [
                    keccak(text="OL-COMMIT-1"),
                    world.chain_id,
                    str(d.address),
                    1,
                    person("carl"),
                    b32(f"salted {number}"),
                ],
            )
        )
        if number % 2:
            meter(d, "commit", 1, unique, by="carl")
        else:
            meter.relayed(d, "commit", "carl", 1, unique)
    boa.env.time_travel(blocks=REVEAL_BLOCKS)
    for number in range(1, 5):
        shown = (b32(f"salted {number}"), b32("root"), 12, b32("manifest"), 2, True)
        if number % 2:
            meter(d, "reveal", number, *shown, by="carl")
        else:
            meter.relayed(d, "reveal", "carl", number, *shown)
    meter(d, "approve", 1, by="olga")
    meter.relayed(d, "approve", "olga", 2)
    meter(d, "reject", 3, b32("reason"), by="olga")
    meter.relayed(d, "reject", "olga", 4, b32("reason"))
    meter(d, "withdraw", 1, by="carl")
    meter.relayed(d, "withdraw", "carl", 2)


def models(world: World, meter: Meter) -> None:
    m = world.models
    boa.env.evm.patch.prev_hashes = [b32(str(i)) for i in range(256)]
    versions = [(1, world.datanets.sequence(1), world.datanets.head(1))]
    begun = (b32("recipe"), b32("manifest"), 12, 1, versions)
    meter(m, "begin", b32("op"), *begun, by="bea")
    meter.relayed(m, "begin", "bea", b32("op 2"), *begun)
    boa.env.time_travel(blocks=SEED_BLOCKS + 1)
    meter(m, "draw_seed", 1)
    m.draw_seed(2)
    made = (b32("fiddler"), b32("base"), b32("adapter"), b32("training"), 40, PRICE, POLICY)
    meter(m, "release", 1, *made, by="bea")
    meter.relayed(m, "release", "bea", 2, *made)
    meter(m, "propose_terms", 1, (0, 0, 0), POLICY, by="bea")
    meter.relayed(m, "propose_terms", "bea", 1, PRICE, POLICY)
    boa.env.time_travel(seconds=NOTICE)
    meter(m, "deprecate", 1, by="bea")
    meter.relayed(m, "deprecate", "bea", 2)


def escrow(world: World, meter: Meter) -> None:
    e, gwen, paul = world.escrow, person("gwen"), person("paul")
    meter(e, "deposit, new payer", paul, gwen, 10**6, b32("one"), by="holder")
    meter(e, "deposit", paul, gwen, 10**6, b32("two"), by="holder")
    meter(e, "deposit, repeated", paul, gwen, 10**6, b32("two"), by="holder")
    op = b32("three")
    fields = {
        "from": ("address", person("holder")),
        "to": ("address", str(e.address)),
        "value": ("uint256", 10**6),
        "validAfter": ("uint256", 0),
        "validBefore": ("uint256", FAR),
        "nonce": ("bytes32", keccak(encode(["address", "bytes32"], [gwen, op]))),
    }
    signature = world.sign(world.token, "ReceiveWithAuthorization", fields, "holder")
    meter(e, "deposit_for", person("holder"), gwen, 10**6, op, FAR, signature)
    book = Book(world, "gwen")
    for label, size in (
        ("settle, 1 payer, 1 receipt, first", 1),
        ("settle, 1 payer, 1 receipt", 1),
        ("settle, 1 payer, 10000 receipts", 10_000),
    ):
        meter(e, label, *_epoch(book, size), by="gwen")
    for count in (10, 32):
        for number in range(count):
            world.deposit(f"payer {number}", "gwen", 5)
            book.call(f"payer {number}", 5)
        root, draws = book.draws()
        arguments = (gwen, book.first, count, root, [draw.tuple() for draw in draws])
        meter(e, f"settle, {count} payers", *arguments, by="gwen")
        book.first, book.drawn, book.calls = book.first + count, book.total, []
    meter(e, "request_exit", gwen, 7, by="paul")
    meter.relayed(e, "request_exit", "paul", gwen, 8)
    boa.env.time_travel(seconds=EXIT_DELAY)
    meter(e, "exit", gwen, by="paul")
    e.request_exit(gwen, 7, sender=paul)
    boa.env.time_travel(seconds=EXIT_DELAY)
    meter.relayed(e, "exit", "paul", gwen)


def _epoch(book: Book, size: int) -> tuple[Any, ...]:
    """Arguments of `settle` for receipts of paul, of which all but the last are filler."""
    filler = [b32(f"{i}") + b32("statement") for i in range(size - 1)]
    book.call("paul", size, gateway_sequence=book.first + size - 1)
    leaf = book.calls[0][2]
    tree = Tree([*filler, leaf])
    path = [as_bytes(step) for step in tree.prove(size - 1).path]
    draw = book.draw(Tree([leaf]), 0).tuple(index=size - 1, proof=path)
    arguments = (person("gwen"), book.first, size, as_bytes(tree.root), [draw])
    book.first, book.drawn, book.calls = book.first + size, book.total, []
    return arguments


def payouts(world: World, meter: Meter) -> None:
    p, gwen, guardian = world.payouts, person("gwen"), "guardian"
    people = [f"earner {i}" for i in range(100)]
    for factor, label in ((1, ", first"), (2, "")):
        tree = world.payout("gwen", {person(name): factor for name in people})
        arguments = (gwen, tree.root, tree.size, tree.total)
        meter(p, f"propose{label}", *arguments, by="gwen")
        if factor == 1:
            meter(p, "veto", gwen, b32("why"), by=guardian)
            p.propose(*arguments, sender=gwen)
        boa.env.time_travel(seconds=PAYOUT_DELAY)
        meter(p, f"activate{label}", gwen)
        claim = tree.claim(person("earner 3"), factor)
        meter(p, f"claim, 100 accounts{label}", person("earner 3"), *claim)
    meter(p, "claim_many, 1 gateway", person("earner 4"), [tree.claim(person("earner 4"), 2)])
    many = world.payout("gwen", {person(f"earner {i}"): 1 for i in range(9_990)})
    many.owed[person("earner 3")] += 1
    many = world.payout("gwen", many.owed)
    claim = many.claim(person("earner 5"), many.activate())
    meter(p, "claim, 9990 accounts", person("earner 5"), *claim)
    meter(p, "pause", 3600, by=guardian)
    data = p.fund.prepare_calldata(gwen, 1)
    used = execute(p, str(world.escrow.address), data)
    meter.used["Payouts"]["fund, without its transaction"] = used


def views(world: World, meter: Meter) -> None:
    gwen, paul, bea = person("gwen"), person("paul"), person("bea")
    asked: list[tuple[VyperContract, str, tuple[Any, ...]]] = [
        (world.token, "DOMAIN_SEPARATOR", ()),
        (world.token, "balanceOf", (paul,)),
        (world.identity, "controller_of", (paul,)),
        (world.identity, "payee_of", (paul,)),
        (world.identity, "recovery_of", (paul,)),
        (world.datanets, "version_of", (1,)),
        (world.datanets, "contributions", (1,)),
        (world.models, "seed_of", (1,)),
        (world.models, "terms_of", (1, 1)),
        (world.models, "terms_version", (1,)),
        (world.models, "run_of", (bea, b32("op"))),
        (world.escrow, "balance_of", (paul, gwen)),
        (world.escrow, "next_sequence", (gwen,)),
        (world.payouts, "claimed", (gwen, paul)),
    ]
    for contract, function, arguments in asked:
        meter(contract, function, *arguments)
    book = Book(world, "gwen")
    channel, _ = book.voucher("paul", 1)
    meter(world.escrow, "channel_id", channel)
    book.call("paul", 1)
    _, draws = book.draws()
    meter(world.escrow, "call_digest", draws[0].fields["receipt"])


def test_gas_is_as_in_the_snapshot(request: pytest.FixtureRequest) -> None:
    with boa.swap_env(boa.Env()):  # of its own, since no anchor survives a real transaction's end
        used = measure(World())
    if request.config.getoption("--write-gas"):
        SNAPSHOT.write_text(json.dumps(used, indent=1) + "\n")

    assert used == json.loads(SNAPSHOT.read_text()), "run scripts/contracts --gas and look at it"


@pytest.mark.parametrize(
    "name", ["OpenToken", "Identity", "Datanets", "Models", "Payouts", "Escrow"]
)
def test_the_snapshot_covers_every_function_with_a_body(
    name: str, covered: Callable[[str], set[str]]
) -> None:
    source = (CONTRACTS / f"{name}.vy").read_text().split("@external\n")[1:]
    functions = {part.partition("def ")[2].partition("(")[0] for part in source}

    assert functions <= covered(name)


@pytest.fixture
def covered() -> Callable[[str], set[str]]:
    snapshot = json.loads(SNAPSHOT.read_text())
    return lambda name: {label.partition(",")[0] for label in snapshot[name]}


def _vrs(signature: bytes) -> tuple[int, bytes, bytes]:
    return signature[64], signature[:32], signature[32:64]
