import boa
import pytest
from world import FAR, IDENTITY_DELAY, NOBODY, World, person


@pytest.fixture
def alice(world: World) -> str:
    world.identity.register(person("purse"), person("safe"), sender=person("alice"))
    return person("alice")


def keys(world: World) -> tuple[str, str, str]:
    found = (
        world.identity.controller_of(person("alice")),
        world.identity.payee_of(person("alice")),
        world.identity.recovery_of(person("alice")),
    )
    return tuple(str(item).lower() for item in found)  # type: ignore[return-value]


def propose(world: World, who: str, controller: str, payee: str, recovery: str) -> None:
    world.identity.propose_change(
        person("alice"),
        person(controller),
        person(payee),
        person(recovery),
        sender=person(who),
    )


def test_an_account_speaks_for_itself_until_changed(world: World) -> None:
    assert keys(world) == (person("alice"), person("alice"), NOBODY)


def test_a_registered_account_has_payee_and_recovery_key(world: World, alice: str) -> None:
    assert keys(world) == (person("alice"), person("purse"), person("safe"))


def test_an_account_registers_once(world: World, alice: str) -> None:
    with boa.reverts("identity: registered before"):
        world.identity.register(person("purse"), person("safe"), sender=alice)


def test_a_registration_needs_a_payee_and_another_key(world: World) -> None:
    with boa.reverts("identity: no payee"):
        world.identity.register(NOBODY, person("safe"), sender=person("alice"))
    with boa.reverts("identity: recovery is the account"):
        world.identity.register(person("purse"), person("alice"), sender=person("alice"))


def test_a_registration_is_relayed_once(world: World) -> None:
    arguments = (person("purse"), person("safe"))
    with boa.reverts("identity: not the account"):
        world.relay(world.identity, "register", "alice", *arguments, signer="mallory")
    world.relay(world.identity, "register", "alice", *arguments)

    assert keys(world) == (person("alice"), person("purse"), person("safe"))
    assert world.identity.nonces(person("alice")) == 1


def test_a_relayed_act_ends_at_its_deadline(world: World) -> None:
    arguments = (person("purse"), person("safe"))
    with boa.reverts("relay: too late"):
        world.relay(world.identity, "register", "alice", *arguments, deadline=boa.env.timestamp - 1)
    world.relay(world.identity, "register", "alice", *arguments, deadline=boa.env.timestamp)


def test_a_relayed_act_takes_the_next_nonce_only(world: World) -> None:
    with boa.reverts("identity: not the account"):
        world.relay(world.identity, "register", "alice", person("purse"), person("safe"), nonce=1)


def test_a_short_signature_is_refused(world: World) -> None:
    with boa.reverts("signature: 65 bytes needed"):
        world.identity.register_for(
            person("alice"), person("purse"), person("safe"), FAR, b"\x01" * 64
        )


def test_a_change_waits_for_its_delay(world: World, alice: str) -> None:
    propose(world, "alice", "phone", "bank", "safe")
    boa.env.time_travel(seconds=IDENTITY_DELAY - 1)
    with boa.reverts("identity: too early"):
        world.identity.apply_change(alice)
    boa.env.time_travel(seconds=1)
    assert keys(world) == (person("alice"), person("purse"), person("safe"))
    world.identity.apply_change(alice, sender=person("anyone"))

    assert keys(world) == (person("phone"), person("bank"), person("safe"))
    with boa.reverts("identity: nothing proposed"):
        world.identity.apply_change(alice)


def test_a_stranger_changes_nothing(world: World, alice: str) -> None:
    with boa.reverts("identity: neither controller nor recovery"):
        propose(world, "mallory", "mallory", "mallory", "safe")


def test_an_account_registers_before_it_changes(world: World) -> None:
    with boa.reverts("identity: register first"):
        propose(world, "alice", "phone", "bank", "safe")


def test_the_controller_cannot_touch_the_recovery_key(world: World, alice: str) -> None:
    with boa.reverts("identity: only the recovery key changes itself"):
        propose(world, "alice", "alice", "purse", "mallory")
    propose(world, "safe", "alice", "purse", "vault")
    boa.env.time_travel(seconds=IDENTITY_DELAY)
    world.identity.apply_change(alice)

    assert keys(world) == (person("alice"), person("purse"), person("vault"))


def test_keys_are_never_zero(world: World, alice: str) -> None:
    change = world.identity.propose_change
    with boa.reverts("identity: no controller"):
        change(alice, NOBODY, person("bank"), person("safe"), sender=alice)
    with boa.reverts("identity: no payee"):
        change(alice, alice, NOBODY, person("safe"), sender=alice)


def test_a_recovery_proposal_replaces_the_thiefs_and_stands(world: World, alice: str) -> None:
    propose(world, "alice", "mallory", "mallory", "safe")
    propose(world, "safe", "new phone", "bank", "safe")
    with boa.reverts("identity: the recovery key has spoken"):
        propose(world, "alice", "mallory", "mallory", "safe")
    with boa.reverts("identity: the recovery key has spoken"):
        world.identity.cancel_change(alice, sender=alice)
    boa.env.time_travel(seconds=IDENTITY_DELAY)
    world.identity.apply_change(alice)

    assert keys(world) == (person("new phone"), person("bank"), person("safe"))


def test_a_replaced_controller_is_out(world: World, alice: str) -> None:
    propose(world, "safe", "phone", "bank", "safe")
    boa.env.time_travel(seconds=IDENTITY_DELAY)
    world.identity.apply_change(alice)

    with boa.reverts("identity: neither controller nor recovery"):
        propose(world, "alice", "alice", "alice", "safe")
    with boa.reverts("identity: registered before"):
        world.identity.register(person("purse"), person("safe"), sender=alice)
    with boa.reverts("relay: not the controller"):
        world.datanets.create(b"\x01" * 32, b"\x02" * 32, 0, 0, sender=alice)
    with boa.reverts("relay: not the controller"):
        world.relay(world.datanets, "create", "alice", b"\x01" * 32, b"\x02" * 32, 0, 0)
    world.relay(world.datanets, "create", "alice", b"\x01" * 32, b"\x02" * 32, 0, 0, signer="phone")
    assert world.datanets.datanets(1)[0].lower() == alice


def test_either_key_cancels_the_controllers_proposal(world: World, alice: str) -> None:
    for who in ("alice", "safe"):
        propose(world, "alice", "mallory", "mallory", "safe")
        with boa.reverts("identity: neither controller nor recovery"):
            world.identity.cancel_change(alice, sender=person("mallory"))
        world.identity.cancel_change(alice, sender=person(who))
        with boa.reverts("identity: nothing proposed"):
            world.identity.cancel_change(alice, sender=person(who))


def test_changes_are_relayed_for_either_key(world: World, alice: str) -> None:
    for who in ("alice", "safe"):
        fields = {
            "account": ("address", alice),
            "controller": ("address", person("phone")),
            "payee": ("address", person("bank")),
            "recovery": ("address", person("safe")),
            "nonce": ("uint256", world.identity.nonces(alice)),
            "deadline": ("uint256", FAR),
        }
        arguments = (alice, person("phone"), person("bank"), person("safe"), FAR)
        forged = world.sign(world.identity, "ProposeChange", fields, "mallory")
        with boa.reverts("identity: neither controller nor recovery"):
            world.identity.propose_change_for(*arguments, forged)
        signature = world.sign(world.identity, "ProposeChange", fields, who)
        world.identity.propose_change_for(*arguments, signature)
        assert world.identity.changes(alice)[2] == (who == "safe")
        with boa.reverts("identity: neither controller nor recovery"):
            world.relay(world.identity, "cancel_change", "alice", signer="mallory")
        world.relay(world.identity, "cancel_change", "alice", signer=who)
        assert world.identity.changes(alice)[1] == 0
