from hashlib import sha256
from typing import Any

import boa
import pytest
from boa.contracts.vyper.vyper_contract import VyperContract
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from world import NOTICE, SEED_BLOCKS, World, b32, deployer_of, person

ZERO = b"\x00" * 32
PRICE = (1000, 2000, 30)
POLICY = (1000, 2000, 1400, 300, 300, 5000, 0, 0)


def version(world: World, datanet: int = 1) -> tuple[int, int, bytes]:
    return (datanet, world.datanets.sequence(datanet), world.datanets.head(datanet))


def run(world: World, op: str = "op", **changes: object) -> tuple[Any, ...]:
    fields = {
        "op": b32(op),
        "recipe": b32("recipe"),
        "manifest_root": b32("manifest"),
        "manifest_size": 12,
        "method": 1,
        "versions": [version(world, 1), version(world, 2)],
    }
    return tuple((fields | changes).values())


def made(number: int = 1, **changes: object) -> tuple[Any, ...]:
    fields = {
        "run": number,
        "slug": b32("fiddler"),
        "base": b32("base"),
        "adapter": b32("adapter"),
        "training_root": b32("training"),
        "training_size": 40,
        "price": PRICE,
        "policy": POLICY,
    }
    return tuple((fields | changes).values())


def policy(**changes: int) -> tuple[int, ...]:
    names = ("platform", "builder", "node", "verifiers", "stakers", "data", "base_owner", "parent")
    return tuple((dict(zip(names, POLICY, strict=True)) | changes).values())


def draw(world: World, number: int = 1) -> None:
    boa.env.time_travel(blocks=SEED_BLOCKS + 1)
    world.models.draw_seed(number)


@pytest.fixture
def models(world: World) -> VyperContract:
    """Two Datanets with floors 4,000 and 4,500, and a chain that knows its hashes."""
    boa.env.evm.patch.prev_hashes = [keccak(bytes([i])) for i in range(256)]
    world.datanets.create(b32("folk"), b32("rules"), 4500, 30, sender=person("olga"))
    world.datanets.create(b32("songs"), b32("rules"), 4000, 30, sender=person("olga"))
    return world.models


@pytest.fixture
def begun(world: World, models: VyperContract) -> VyperContract:
    models.begin(*run(world), sender=person("bea"))
    return models


@pytest.fixture
def released(world: World, begun: VyperContract) -> VyperContract:
    draw(world)
    begun.release(*made(), sender=person("bea"))
    return begun


def test_a_seed_needs_a_block_that_is_not_there_yet(world: World) -> None:
    with boa.reverts("models: no seed delay"):
        deployer_of("Models").deploy(world.identity, world.datanets, 0, 0)


def test_a_run_stands_as_begun(world: World, begun: VyperContract) -> None:
    block = boa.env.evm.patch.block_number
    versions = keccak(
        encode(["(uint256,uint256,bytes32)[]"], [[version(world, 1), version(world, 2)]])
    )
    found = tuple(begun.runs(1))
    assert (found[0].lower(), found[1]) == (person("bea"), 1)
    assert found[2:8] == (b32("recipe"), b32("manifest"), 12, 1, versions, 4500)
    assert found[8:] == (block, block + SEED_BLOCKS, 0, ZERO, 0)
    assert begun.run_of(person("bea"), b32("op")) == 1


def test_an_op_begins_one_run_per_owner(world: World, begun: VyperContract) -> None:
    with boa.reverts("models: op seen before"):
        begun.begin(*run(world), sender=person("bea"))
    begun.begin(*run(world, "op 2"), sender=person("bea"))
    begun.begin(*run(world), sender=person("ben"))

    assert [begun.runs(i)[1] for i in (1, 2, 3)] == [1, 2, 1]
    assert begun.runs_begun(person("bea")) == 2


def test_a_run_binds_the_datanets_as_they_are(world: World, models: VyperContract) -> None:
    for wrong in ((1, 1, ZERO), (1, 0, b32("head"))):
        with boa.reverts("models: datanet moved"):
            models.begin(*run(world, versions=[wrong]))
    with boa.reverts("datanets: unknown datanet"):
        models.begin(*run(world, versions=[(3, 0, ZERO)]))
    with boa.reverts("models: datanets not rising"):
        models.begin(*run(world, versions=[version(world), version(world)]))
    with boa.reverts("models: no datanet"):
        models.begin(*run(world, versions=[]))
    with boa.reverts("models: empty manifest"):
        models.begin(*run(world, manifest_size=0))


def test_the_seed_comes_from_its_block(world: World, begun: VyperContract) -> None:
    boa.env.time_travel(blocks=SEED_BLOCKS)
    with boa.reverts("models: too early for the seed"):
        begun.draw_seed(1)
    assert begun.seed_of(1) == ZERO
    boa.env.time_travel(blocks=1)
    begun.draw_seed(1, sender=person("anyone"))

    words = encode(
        ["uint256", "address", "uint256", "bytes32"],
        [world.chain_id, str(begun.address), 1, keccak(bytes([0]))],
    )
    assert begun.seed_of(1) == sha256(words).digest()
    with boa.reverts("models: seed drawn before"):
        begun.draw_seed(1)


def test_an_unknown_run_has_no_seed_to_draw(models: VyperContract) -> None:
    with boa.reverts("models: unknown run"):
        models.draw_seed(1)


def test_the_oldest_hash_still_makes_a_seed(world: World, begun: VyperContract) -> None:
    boa.env.time_travel(blocks=SEED_BLOCKS + 256)
    begun.draw_seed(1)

    assert begun.seed_of(1) != ZERO


def test_a_missed_hash_moves_the_target_and_is_counted(world: World, begun: VyperContract) -> None:
    boa.env.time_travel(blocks=SEED_BLOCKS + 257)
    begun.draw_seed(1)
    target = boa.env.evm.patch.block_number + SEED_BLOCKS

    assert begun.seed_of(1) == ZERO
    assert (begun.runs(1)[9], begun.runs(1)[10]) == (target, 1)
    draw(world)
    assert begun.seed_of(1) != ZERO


def test_a_release_stands_as_made(released: VyperContract) -> None:
    found = tuple(released.releases(1))
    assert found[0].lower() == person("bea")
    assert found[1:4] == (1, b32("fiddler"), 1)
    assert found[4:] == (b32("base"), b32("adapter"), b32("training"), 40, False)
    assert released.runs(1)[12] == 1
    assert released.release_of(person("bea"), b32("fiddler"), 1) == 1
    assert released.terms_version(1) == 1
    assert tuple(released.terms_of(1, 1))[:2] == (PRICE, POLICY)


def test_versions_count_per_owner_and_slug(world: World, released: VyperContract) -> None:
    for who, op in (("bea", "op 2"), ("ben", "op")):
        released.begin(*run(world, op), sender=person(who))
    draw(world, 2)
    released.draw_seed(3)
    released.release(*made(2), sender=person("bea"))
    released.release(*made(3), sender=person("ben"))

    assert [released.releases(i)[3] for i in (1, 2, 3)] == [1, 2, 1]
    assert released.version_count(person("bea"), b32("fiddler")) == 2


def test_a_release_waits_for_its_seed(world: World, begun: VyperContract) -> None:
    with boa.reverts("models: seed not drawn"):
        begun.release(*made(), sender=person("bea"))
    draw(world)
    begun.release(*made(), sender=person("bea"))


def test_a_run_is_released_once_and_by_its_owner(world: World, begun: VyperContract) -> None:
    draw(world)
    with boa.reverts("models: not the owner"):
        begun.release(*made(), sender=person("mallory"))
    begun.release(*made(), sender=person("bea"))
    with boa.reverts("models: released before"):
        begun.release(*made(), sender=person("bea"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"slug": ZERO}, "models: no slug"),
        ({"training_size": 0}, "models: empty training set"),
        ({"policy": policy(data=5001)}, "models: policy does not sum to 10,000"),
        ({"policy": policy(data=4999)}, "models: policy does not sum to 10,000"),
        ({"policy": policy(platform=499, data=5501)}, "models: platform part too low"),
        ({"policy": policy(data=4499, parent=501)}, "models: data part below the floor"),
    ],
)
def test_a_wrong_release_is_refused(
    world: World, begun: VyperContract, change: dict[str, Any], reason: str
) -> None:
    draw(world)
    with boa.reverts(reason):
        begun.release(*made(**change), sender=person("bea"))


def test_a_policy_may_stand_at_its_bounds(world: World, begun: VyperContract) -> None:
    draw(world)
    bounds = policy(platform=500, data=4500, base_owner=700, parent=300)
    begun.release(*made(policy=bounds), sender=person("bea"))

    assert tuple(begun.terms_of(1, 1)[1]) == bounds


def test_a_fall_in_price_counts_at_once(released: VyperContract) -> None:
    released.propose_terms(1, (1000, 1999, 0), POLICY, sender=person("bea"))

    assert released.terms_version(1) == 2


@pytest.mark.parametrize(
    ("price", "parts"),
    [
        ((1001, 0, 0), POLICY),
        ((0, 2001, 0), POLICY),
        ((0, 0, 31), POLICY),
        (PRICE, policy(platform=999, data=5001)),
    ],
)
def test_a_rise_or_another_policy_needs_notice(
    released: VyperContract, price: tuple[int, ...], parts: tuple[int, ...]
) -> None:
    released.propose_terms(1, price, parts, sender=person("bea"))
    boa.env.timestamp += NOTICE - 1
    assert released.terms_version(1) == 1
    boa.env.timestamp += 1
    assert released.terms_version(1) == 2


def test_a_later_proposal_supersedes_one_that_waits(released: VyperContract) -> None:
    released.propose_terms(1, (5000, 0, 0), POLICY, sender=person("bea"))
    released.propose_terms(1, (900, 2000, 30), POLICY, sender=person("bea"))
    assert released.terms_version(1) == 3
    released.propose_terms(1, (901, 2000, 30), POLICY, sender=person("bea"))
    assert released.terms_version(1) == 3
    boa.env.timestamp += NOTICE

    assert released.terms_version(1) == 4
    assert released.terms_of(1, 4)[3] == 3


def test_terms_are_their_owners_and_keep_the_floor(released: VyperContract) -> None:
    with boa.reverts("models: not the owner"):
        released.propose_terms(1, PRICE, POLICY, sender=person("mallory"))
    with boa.reverts("models: data part below the floor"):
        released.propose_terms(1, PRICE, policy(data=4499, parent=501), sender=person("bea"))
    for number in (0, 2):
        with boa.reverts("models: unknown terms"):
            released.terms_of(1, number)
    with boa.reverts("models: unknown release"):
        released.terms_version(2)


def test_a_release_is_deprecated_once_by_its_owner(released: VyperContract) -> None:
    with boa.reverts("models: not the owner"):
        released.deprecate(1, sender=person("mallory"))
    released.deprecate(1, sender=person("bea"))

    assert released.releases(1)[8]
    with boa.reverts("models: deprecated before"):
        released.deprecate(1, sender=person("bea"))


def test_every_act_is_relayed_for_its_signer_only(world: World, models: VyperContract) -> None:
    acts = [
        ("begin", run(world)),
        ("release", made()),
        ("propose_terms", (1, PRICE, POLICY)),
        ("deprecate", (1,)),
    ]
    for function, arguments in acts:
        with boa.reverts("relay: not the controller"):
            world.relay(models, function, "bea", *arguments, signer="mallory")
        world.relay(models, function, "bea", *arguments)
        if function == "begin":
            draw(world)

    assert models.releases(1)[8]
    assert models.nonces(person("bea")) == 4


def test_only_the_account_itself_acts_unrelayed(world: World, models: VyperContract) -> None:
    world.identity.register(person("bea"), person("safe"), sender=person("bea"))
    world.identity.propose_change(
        person("bea"), person("phone"), person("bea"), person("safe"), sender=person("bea")
    )
    boa.env.timestamp += 100
    world.identity.apply_change(person("bea"))
    with boa.reverts("relay: not the controller"):
        models.begin(*run(world), sender=person("bea"))
