from typing import Any

import boa
import pytest
from boa.contracts.vyper.vyper_contract import VyperContract
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from world import NOBODY, REVEAL_BLOCKS, REVEAL_WINDOW, World, b32, person

from openledger.core.types import Account

ZERO = b"\x00" * 32
COMMITTED, REVEALED, APPROVED, REJECTED, WITHDRAWN = 1, 2, 3, 4, 5


def commitment(
    world: World, contributor: Account, datanet: int = 1, salted: bytes = b32("salted")
) -> bytes:
    return keccak(
        encode(
            ["bytes32", "uint256", "address", "uint256", "address", "bytes32"],
            [
                keccak(text="OL-COMMIT-1"),
                world.chain_id,
                str(world.datanets.address),
                datanet,
                contributor,
                salted,
            ],
        )
    )


def shown(contribution: int = 1, **changes: object) -> tuple[Any, ...]:
    fields = {
        "contribution": contribution,
        "salted_digest": b32("salted"),
        "root": b32("root"),
        "size": 12,
        "manifest": b32("manifest"),
        "claim": 2,
        "on_behalf": True,
    }
    return tuple((fields | changes).values())


@pytest.fixture
def net(world: World) -> VyperContract:
    """A Datanet of olga."""
    world.datanets.create(b32("folk"), b32("rules"), 5000, 30, sender=person("olga"))
    return world.datanets


@pytest.fixture
def committed(world: World, net: VyperContract) -> VyperContract:
    net.commit(1, commitment(world, person("carl")), sender=person("carl"))
    return net


@pytest.fixture
def revealed(committed: VyperContract) -> VyperContract:
    boa.env.time_travel(blocks=REVEAL_BLOCKS)
    committed.reveal(*shown(), sender=person("carl"))
    return committed


def test_a_datanet_gets_an_id_and_stands_as_created(net: VyperContract) -> None:
    owner, slug, rules, floor, days = net.datanets(1)
    assert (owner.lower(), slug, rules) == (person("olga"), b32("folk"), b32("rules"))
    assert (floor, days, net.id_of(person("olga"), b32("folk"))) == (5000, 30, 1)
    assert net.version_of(1) == (0, ZERO, 5000)


def test_a_slug_is_unique_per_owner(net: VyperContract) -> None:
    with boa.reverts("datanets: slug taken"):
        net.create(b32("folk"), b32("rules"), 0, 0, sender=person("olga"))
    net.create(b32("folk"), b32("rules"), 0, 0, sender=person("otto"))

    assert net.id_of(person("otto"), b32("folk")) == net.datanet_count() == 2


def test_a_datanet_has_a_slug_and_leaves_the_platform_its_part(world: World) -> None:
    with boa.reverts("datanets: no slug"):
        world.datanets.create(ZERO, b32("rules"), 0, 0)
    with boa.reverts("datanets: floor too high"):
        world.datanets.create(b32("folk"), b32("rules"), 9501, 0)
    world.datanets.create(b32("folk"), b32("rules"), 9500, 0)


def test_a_commitment_is_kept_with_its_time(committed: VyperContract) -> None:
    found = committed.contributions(1)
    assert (found[0], found[1].lower(), found[2]) == (1, person("carl"), COMMITTED)
    assert (found[3], found[4]) == (boa.env.evm.patch.block_number, boa.env.timestamp)
    assert committed.contribution_of(person("carl"), found[5]) == 1


def test_a_contributor_commits_once_to_the_same(world: World, committed: VyperContract) -> None:
    with boa.reverts("datanets: committed before"):
        committed.commit(1, commitment(world, person("carl")), sender=person("carl"))


def test_a_copied_commitment_neither_blocks_nor_reveals(world: World, net: VyperContract) -> None:
    copied = commitment(world, person("carl"))
    net.commit(1, copied, sender=person("mallory"))
    net.commit(1, copied, sender=person("carl"))
    boa.env.time_travel(blocks=REVEAL_BLOCKS)
    with boa.reverts("datanets: not what was committed"):
        net.reveal(*shown(1), sender=person("mallory"))
    net.reveal(*shown(2), sender=person("carl"))

    assert net.contributions(2)[2] == REVEALED


@pytest.mark.parametrize("datanet", [0, 2])
def test_nobody_commits_to_a_datanet_that_is_not(net: VyperContract, datanet: int) -> None:
    with boa.reverts("datanets: unknown datanet"):
        net.commit(datanet, b32("any"))
    with boa.reverts("datanets: unknown datanet"):
        net.version_of(datanet)


def test_a_reveal_keeps_everything_it_shows(revealed: VyperContract) -> None:
    found = revealed.contributions(1)
    assert found[2] == REVEALED
    assert tuple(found[6:]) == (b32("root"), 12, b32("manifest"), 2, True)


def test_a_reveal_waits_for_its_blocks(committed: VyperContract) -> None:
    boa.env.time_travel(blocks=REVEAL_BLOCKS - 1)
    with boa.reverts("datanets: revealed too early"):
        committed.reveal(*shown(), sender=person("carl"))
    boa.env.time_travel(blocks=1)
    committed.reveal(*shown(), sender=person("carl"))


def test_a_reveal_comes_within_its_window(committed: VyperContract) -> None:
    boa.env.evm.patch.block_number += REVEAL_BLOCKS
    boa.env.timestamp += REVEAL_WINDOW + 1
    with boa.reverts("datanets: revealed too late"):
        committed.reveal(*shown(), sender=person("carl"))
    boa.env.timestamp -= 1
    committed.reveal(*shown(), sender=person("carl"))


def test_only_its_contributor_reveals_and_once(committed: VyperContract) -> None:
    boa.env.time_travel(blocks=REVEAL_BLOCKS)
    with boa.reverts("datanets: not the contributor"):
        committed.reveal(*shown(), sender=person("mallory"))
    committed.reveal(*shown(), sender=person("carl"))
    with boa.reverts("datanets: not to be revealed"):
        committed.reveal(*shown(), sender=person("carl"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"salted_digest": b32("other")}, "datanets: not what was committed"),
        ({"size": 0}, "datanets: empty contribution"),
        ({"claim": 3}, "datanets: unknown claim"),
    ],
)
def test_a_false_reveal_is_refused(
    committed: VyperContract, change: dict[str, Any], reason: str
) -> None:
    boa.env.time_travel(blocks=REVEAL_BLOCKS)
    with boa.reverts(reason):
        committed.reveal(*shown(**change), sender=person("carl"))


def test_a_commitment_counts_in_its_datanet_only(world: World, net: VyperContract) -> None:
    net.create(b32("songs"), b32("rules"), 0, 0, sender=person("olga"))
    net.commit(2, commitment(world, person("carl"), datanet=1), sender=person("carl"))
    boa.env.time_travel(blocks=REVEAL_BLOCKS)
    with boa.reverts("datanets: not what was committed"):
        net.reveal(*shown(), sender=person("carl"))


def test_the_owner_approves_once(revealed: VyperContract) -> None:
    with boa.reverts("datanets: not the owner"):
        revealed.approve(1, sender=person("carl"))
    revealed.approve(1, sender=person("olga"))

    assert revealed.contributions(1)[2] == APPROVED
    with boa.reverts("datanets: not to be approved"):
        revealed.approve(1, sender=person("olga"))


def test_what_is_only_committed_is_neither_approved_nor_rejected(committed: VyperContract) -> None:
    with boa.reverts("datanets: not to be approved"):
        committed.approve(1, sender=person("olga"))
    with boa.reverts("datanets: not to be rejected"):
        committed.reject(1, b32("reason"), sender=person("olga"))
    with boa.reverts("datanets: not to be withdrawn"):
        committed.withdraw(1, sender=person("carl"))


@pytest.mark.parametrize("approved_before", [False, True])
def test_the_owner_rejects_with_a_reason(revealed: VyperContract, approved_before: bool) -> None:
    if approved_before:
        revealed.approve(1, sender=person("olga"))
    with boa.reverts("datanets: no reason"):
        revealed.reject(1, ZERO, sender=person("olga"))
    with boa.reverts("datanets: not the owner"):
        revealed.reject(1, b32("reason"), sender=person("mallory"))
    revealed.reject(1, b32("reason"), sender=person("olga"))

    assert revealed.contributions(1)[2] == REJECTED
    with boa.reverts("datanets: not to be approved"):
        revealed.approve(1, sender=person("olga"))
    with boa.reverts("datanets: not to be rejected"):
        revealed.reject(1, b32("reason"), sender=person("olga"))


@pytest.mark.parametrize("decision", ["none", "approve", "reject"])
def test_a_contributor_withdraws_once(revealed: VyperContract, decision: str) -> None:
    if decision == "approve":
        revealed.approve(1, sender=person("olga"))
    if decision == "reject":
        revealed.reject(1, b32("reason"), sender=person("olga"))
    with boa.reverts("datanets: not the contributor"):
        revealed.withdraw(1, sender=person("olga"))
    revealed.withdraw(1, sender=person("carl"))

    assert revealed.contributions(1)[2] == WITHDRAWN
    with boa.reverts("datanets: not to be withdrawn"):
        revealed.withdraw(1, sender=person("carl"))


def test_replaying_the_events_reaches_the_head(world: World, net: VyperContract) -> None:
    head, sequence = ZERO, 0
    people = ["carl", "cora", "carl"]
    for number, who in enumerate(people, start=1):
        salted = b32(f"salted {number}")
        unique = commitment(world, person(who), salted=salted)
        assert net.commit(1, unique, sender=person(who)) == number
        boa.env.time_travel(blocks=REVEAL_BLOCKS)
        net.reveal(*shown(number, salted_digest=salted, size=number), sender=person(who))
        steps = [REVEALED]
        if number == 1:
            net.approve(number, sender=person("olga"))
            steps.append(APPROVED)
        if number == 2:
            net.reject(number, b32("reason"), sender=person("olga"))
            steps.append(REJECTED)
        if number == 3:
            net.withdraw(number, sender=person(who))
            steps.append(WITHDRAWN)
        logged = net.get_logs()[-1]
        for state in steps:
            sequence += 1
            head = keccak(
                encode(
                    ["bytes32", "uint256", "uint256", "uint256", "address", "bytes32", "uint256"],
                    [head, sequence, state, number, person(who), b32("root"), number],
                )
            )
        assert (net.sequence(1), net.head(1)) == (sequence, head)
        assert (logged.sequence, logged.head) == (sequence, head)


def test_every_act_is_relayed_for_its_signer_only(world: World) -> None:
    net = world.datanets
    acts = [
        ("create", "olga", (b32("folk"), b32("rules"), 5000, 30)),
        ("commit", "carl", (1, commitment(world, person("carl")))),
        ("reveal", "carl", shown()),
        ("approve", "olga", (1,)),
        ("reject", "olga", (1, b32("reason"))),
        ("withdraw", "carl", (1,)),
    ]
    for function, who, arguments in acts:
        with boa.reverts("relay: not the controller"):
            world.relay(net, function, who, *arguments, signer="mallory")
        with boa.reverts("relay: not the controller"):
            world.relay(net, function, who, *arguments, nonce=net.nonces(person(who)) + 1)
        with boa.reverts("relay: too late"):
            world.relay(net, function, who, *arguments, deadline=boa.env.timestamp - 1)
        before = net.nonces(person(who))
        world.relay(net, function, who, *arguments)
        assert net.nonces(person(who)) == before + 1
        boa.env.time_travel(blocks=REVEAL_BLOCKS)

    assert net.contributions(1)[2] == WITHDRAWN
    assert net.contributions(1)[1].lower() == person("carl")


def test_an_account_that_is_nobody_owns_nothing(net: VyperContract) -> None:
    with boa.reverts("datanets: not to be approved"):
        net.approve(7, sender=NOBODY)
