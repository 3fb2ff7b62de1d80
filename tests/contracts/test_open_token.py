import boa
import pytest
from world import FAR, NOBODY, OPEN, World, b32, person

SUPPLY = 10**9 * OPEN
UNLIMITED = 2**256 - 1
HIGH_S = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def split(signature: bytes) -> tuple[int, bytes, bytes]:
    return signature[64], signature[:32], signature[32:64]


def authorization(world: World, name: str, to: str, amount: int, **changes: int) -> bytes:
    fields = {
        "from": ("address", person("holder")),
        "to": ("address", person(to)),
        "value": ("uint256", amount),
        "validAfter": ("uint256", changes.get("after", 0)),
        "validBefore": ("uint256", changes.get("before", FAR)),
        "nonce": ("bytes32", b32("nonce")),
    }
    return world.sign(world.token, name, fields, "holder")


def permit(world: World, amount: int, deadline: int = FAR, signer: str = "holder") -> bytes:
    fields = {
        "owner": ("address", person("holder")),
        "spender": ("address", person("bob")),
        "value": ("uint256", amount),
        "nonce": ("uint256", world.token.nonces(person("holder"))),
        "deadline": ("uint256", deadline),
    }
    return world.sign(world.token, "Permit", fields, signer)


def test_the_whole_supply_is_minted_once_to_the_holder(world: World) -> None:
    token = world.token
    assert (token.name(), token.symbol(), token.decimals()) == ("OpenLedger", "OPEN", 18)
    assert token.totalSupply() == token.balanceOf(person("holder")) == SUPPLY


def test_a_token_without_a_holder_is_refused() -> None:
    from world import deployer_of

    with boa.reverts("token: no holder"):
        deployer_of("OpenToken").deploy(NOBODY)


def test_a_transfer_moves_wei_and_keeps_the_supply(world: World) -> None:
    world.token.transfer(person("bob"), 7, sender=person("holder"))

    assert world.token.balanceOf(person("bob")) == 7
    assert world.token.balanceOf(person("holder")) == SUPPLY - 7


def test_the_whole_balance_can_be_sent_and_not_a_wei_more(world: World) -> None:
    world.token.transfer(person("bob"), 7, sender=person("holder"))
    with boa.reverts("token: over balance"):
        world.token.transfer(person("carol"), 8, sender=person("bob"))
    world.token.transfer(person("carol"), 7, sender=person("bob"))

    assert world.token.balanceOf(person("carol")) == 7


def test_nothing_is_sent_to_zero_or_to_the_token(world: World) -> None:
    for to in (NOBODY, world.token.address):
        with boa.reverts("token: no receiver"):
            world.token.transfer(to, 1, sender=person("holder"))


def test_an_allowance_is_used_up(world: World) -> None:
    token = world.token
    token.approve(person("bob"), 5, sender=person("holder"))
    token.transferFrom(person("holder"), person("carol"), 3, sender=person("bob"))

    assert token.allowance(person("holder"), person("bob")) == 2
    with boa.reverts("token: over allowance"):
        token.transferFrom(person("holder"), person("carol"), 3, sender=person("bob"))


def test_an_unlimited_allowance_never_falls(world: World) -> None:
    token = world.token
    token.approve(person("bob"), UNLIMITED, sender=person("holder"))
    token.transferFrom(person("holder"), person("carol"), 3, sender=person("bob"))

    assert token.allowance(person("holder"), person("bob")) == UNLIMITED


def test_a_permit_approves_once(world: World) -> None:
    signature = split(permit(world, 9))
    world.token.permit(person("holder"), person("bob"), 9, FAR, *signature)

    assert world.token.allowance(person("holder"), person("bob")) == 9
    with boa.reverts("token: wrong signer"):
        world.token.permit(person("holder"), person("bob"), 9, FAR, *signature)


def test_a_permit_of_somebody_else_or_of_yesterday_is_refused(world: World) -> None:
    forged = split(permit(world, 9, signer="mallory"))
    with boa.reverts("token: wrong signer"):
        world.token.permit(person("holder"), person("bob"), 9, FAR, *forged)
    late = boa.env.timestamp - 1
    with boa.reverts("token: too late"):
        world.token.permit(person("holder"), person("bob"), 9, late, *split(permit(world, 9, late)))
    now = boa.env.timestamp
    world.token.permit(person("holder"), person("bob"), 9, now, *split(permit(world, 9, now)))


@pytest.mark.parametrize("change", ["high s", "v", "garbage"])
def test_a_malformed_signature_is_refused(world: World, change: str) -> None:
    v, r, s = split(permit(world, 9))
    if change == "high s":
        s = (HIGH_S - int.from_bytes(s, "big")).to_bytes(32, "big")
        v = 55 - v
    reason = {"high s": "signature: high s", "v": "signature: v is 27 or 28"}
    if change == "v":
        v = 29
    if change == "garbage":
        r = b"\xff" * 32
    with boa.reverts(reason.get(change, "signature: fits no key")):
        world.token.permit(person("holder"), person("bob"), 9, FAR, v, r, s)


def test_an_authorized_transfer_happens_once(world: World) -> None:
    token = world.token
    arguments = (person("holder"), person("bob"), 4, 0, FAR, b32("nonce"))
    signature = split(authorization(world, "TransferWithAuthorization", "bob", 4))
    token.transferWithAuthorization(*arguments, *signature, sender=person("relayer"))

    assert token.balanceOf(person("bob")) == 4
    assert token.authorizationState(person("holder"), b32("nonce"))
    with boa.reverts("token: authorization used"):
        token.transferWithAuthorization(*arguments, *signature, sender=person("relayer"))


def test_an_authorization_for_another_amount_is_refused(world: World) -> None:
    signature = split(authorization(world, "TransferWithAuthorization", "bob", 4))
    with boa.reverts("token: wrong signer"):
        world.token.transferWithAuthorization(
            person("holder"), person("bob"), 5, 0, FAR, b32("nonce"), *signature
        )


def test_an_authorization_counts_between_its_two_seconds(world: World) -> None:
    now = boa.env.timestamp
    cases = {"token: too early": (now, FAR), "token: too late": (0, now)}
    for reason, (after, before) in cases.items():
        signature = split(
            authorization(world, "TransferWithAuthorization", "bob", 4, after=after, before=before)
        )
        with boa.reverts(reason):
            world.token.transferWithAuthorization(
                person("holder"), person("bob"), 4, after, before, b32("nonce"), *signature
            )


def test_only_the_receiver_may_send_what_he_receives(world: World) -> None:
    arguments = (person("holder"), person("bob"), 4, 0, FAR, b32("nonce"))
    signature = split(authorization(world, "ReceiveWithAuthorization", "bob", 4))
    with boa.reverts("token: not the receiver"):
        world.token.receiveWithAuthorization(*arguments, *signature, sender=person("mallory"))
    world.token.receiveWithAuthorization(*arguments, *signature, sender=person("bob"))

    assert world.token.balanceOf(person("bob")) == 4


def test_a_transfer_authorization_is_no_receive_authorization(world: World) -> None:
    arguments = (person("holder"), person("bob"), 4, 0, FAR, b32("nonce"))
    signature = split(authorization(world, "TransferWithAuthorization", "bob", 4))
    with boa.reverts("token: wrong signer"):
        world.token.receiveWithAuthorization(*arguments, *signature, sender=person("bob"))


def test_a_cancelled_authorization_is_void(world: World) -> None:
    token = world.token
    fields = {"authorizer": ("address", person("holder")), "nonce": ("bytes32", b32("nonce"))}
    forged = split(world.sign(token, "CancelAuthorization", fields, "mallory"))
    with boa.reverts("token: wrong signer"):
        token.cancelAuthorization(person("holder"), b32("nonce"), *forged)
    cancel = split(world.sign(token, "CancelAuthorization", fields, "holder"))
    token.cancelAuthorization(person("holder"), b32("nonce"), *cancel)

    signature = split(authorization(world, "TransferWithAuthorization", "bob", 4))
    with boa.reverts("token: authorization used"):
        token.transferWithAuthorization(
            person("holder"), person("bob"), 4, 0, FAR, b32("nonce"), *signature
        )
    with boa.reverts("token: authorization used"):
        token.cancelAuthorization(person("holder"), b32("nonce"), *cancel)
