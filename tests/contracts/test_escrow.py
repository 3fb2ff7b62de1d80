from typing import Any

import boa
import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from world import (
    ESCROW,
    EXIT_DELAY,
    FAR,
    IDENTITY_DELAY,
    NOBODY,
    OPEN,
    Book,
    World,
    b32,
    deployer_of,
    person,
)

from openledger.core.merkle import Tree
from openledger.core.types import as_bytes


def free(world: World, payer: str = "paul", gateway: str = "gwen") -> int:
    deposited, spent, withdrawn = world.escrow.balance_of(person(payer), person(gateway))
    return int(deposited - spent - withdrawn)


@pytest.fixture
def book(world: World) -> Book:
    """Paul and paula have 100 wei each at gwen's."""
    for payer in ("paul", "paula"):
        world.deposit(payer, "gwen", 100)
    return Book(world, "gwen")


def authorize(world: World, amount: int, op: bytes, before: int = FAR, who: str = "paul") -> bytes:
    fields = {
        "from": ("address", person("paul")),
        "to": ("address", str(world.escrow.address)),
        "value": ("uint256", amount),
        "validAfter": ("uint256", 0),
        "validBefore": ("uint256", before),
        "nonce": ("bytes32", keccak(encode(["address", "bytes32"], [person("gwen"), op]))),
    }
    return world.sign(world.token, "ReceiveWithAuthorization", fields, who)


def test_escrow_and_payouts_must_know_each_other(world: World) -> None:
    other = deployer_of("OpenToken").deploy(person("holder"))
    with boa.reverts("escrow: wrong payouts"):
        deployer_of("Escrow").deploy(world.token, world.payouts, 0)
    with boa.reverts("escrow: wrong token"):
        deployer_of("Escrow").deploy(other, world.payouts, 0, override_address=ESCROW)


def test_a_deposit_is_for_one_payer_at_one_gateway(world: World, book: Book) -> None:
    assert tuple(world.escrow.balance_of(person("paul"), person("gwen"))) == (100, 0, 0)
    assert tuple(world.escrow.balance_of(person("paul"), person("greg"))) == (0, 0, 0)
    assert world.token.balanceOf(world.escrow) == 200


def test_a_repeated_deposit_changes_nothing(world: World) -> None:
    arguments = (person("paul"), person("gwen"), 5, b32("same"))
    world.escrow.deposit(*arguments, sender=person("holder"))
    world.escrow.deposit(*arguments, sender=person("holder"))
    assert type(world.escrow.get_logs()[-1]).__name__ == "DepositRepeated"

    assert free(world) == world.token.balanceOf(world.escrow) == 5
    world.token.transfer(person("bob"), 5, sender=person("holder"))
    world.token.approve(world.escrow, 5, sender=person("bob"))
    world.escrow.deposit(*arguments, sender=person("bob"))
    assert free(world) == 10


@pytest.mark.parametrize(
    ("payer", "gateway", "amount", "reason"),
    [
        (NOBODY, person("gwen"), 1, "escrow: no payer"),
        (person("paul"), NOBODY, 1, "escrow: no gateway"),
        (person("paul"), person("gwen"), 0, "escrow: nothing to deposit"),
        (person("paul"), person("gwen"), 10**9 * OPEN + 1, "token: over balance"),
    ],
)
def test_a_senseless_deposit_is_refused(
    world: World, payer: str, gateway: str, amount: int, reason: str
) -> None:
    with boa.reverts(reason):
        world.escrow.deposit(payer, gateway, amount, b32("op"), sender=person("holder"))


def test_a_relayed_deposit_takes_what_its_payer_signed_once(world: World) -> None:
    world.token.transfer(person("paul"), 9, sender=person("holder"))
    arguments = (person("paul"), person("gwen"), 9, b32("op"), FAR)
    with boa.reverts("token: wrong signer"):
        world.escrow.deposit_for(*arguments, authorize(world, 8, b32("op")))
    with boa.reverts("token: wrong signer"):
        world.escrow.deposit_for(*arguments, authorize(world, 9, b32("other")))
    with boa.reverts("token: wrong signer"):
        world.escrow.deposit_for(*arguments, authorize(world, 9, b32("op"), who="mallory"))
    with boa.reverts("escrow: 65 bytes of signature needed"):
        world.escrow.deposit_for(*arguments, b"\x01" * 64)
    signature = authorize(world, 9, b32("op"))
    world.escrow.deposit_for(*arguments, signature, sender=person("relayer"))
    world.escrow.deposit_for(*arguments, signature, sender=person("relayer"))

    assert free(world) == world.token.balanceOf(world.escrow) == 9


def test_a_relayed_deposit_ends_at_its_second(world: World) -> None:
    now = boa.env.timestamp
    signature = authorize(world, 9, b32("op"), before=now)
    with boa.reverts("token: too late"):
        world.escrow.deposit_for(person("paul"), person("gwen"), 9, b32("op"), now, signature)


def test_an_epoch_draws_what_its_receipts_say(world: World, book: Book) -> None:
    for payer, fee in (("paul", 7), ("paula", 5), ("paul", 3), ("paula", 0)):
        book.call(payer, fee)
    root, _ = book.draws()
    assert book.settle() == 15

    escrow, gwen = world.escrow, person("gwen")
    assert tuple(escrow.balance_of(person("paul"), gwen)) == (100, 10, 0)
    assert tuple(escrow.balance_of(person("paula"), gwen)) == (100, 5, 0)
    assert (escrow.drawn(gwen), escrow.next_sequence(gwen), escrow.epoch_count(gwen)) == (15, 5, 1)
    assert tuple(escrow.epochs(gwen, 1)) == (1, 4, root)
    assert world.token.balanceOf(world.payouts) == world.payouts.funded(gwen) == 15
    assert world.token.balanceOf(escrow) == 185


def test_epochs_follow_each_other(world: World, book: Book) -> None:
    for fee in (40, 0, 60):
        book.call("paul", fee)
        book.call("paula", 1)
        book.settle()
        drawn = [e for e in world.escrow.get_logs() if type(e).__name__ == "Drawn"]
        assert [(e.payer.lower(), e.amount) for e in drawn] == [
            (person("paul"), fee),
            (person("paula"), 1),
        ]

    assert free(world) == 0
    assert world.escrow.next_sequence(person("gwen")) == 7
    assert world.escrow.drawn(person("gwen")) == world.payouts.funded(person("gwen")) == 103


def test_an_epoch_of_free_calls_draws_nothing(world: World, book: Book) -> None:
    book.call("peter", 0)
    assert book.settle() == 0

    assert world.escrow.epoch_count(person("gwen")) == 1
    assert world.token.balanceOf(world.payouts) == 0


def test_only_the_gateways_controller_settles(world: World, book: Book) -> None:
    book.call("paul", 7)
    with boa.reverts("escrow: not the gateway"):
        book.submit(*book.draws(), sender=person("mallory"))
    world.identity.register(person("gwen"), person("safe"), sender=person("gwen"))
    world.identity.propose_change(
        person("gwen"), person("hot"), person("gwen"), person("safe"), sender=person("gwen")
    )
    boa.env.time_travel(seconds=100)
    world.identity.apply_change(person("gwen"))
    with boa.reverts("escrow: not the gateway"):
        book.submit(*book.draws())
    book.submit(*book.draws(), sender=person("hot"))


def test_an_epoch_settles_once_and_leaves_no_gap(world: World, book: Book) -> None:
    book.call("paul", 7)
    root, draws = book.draws()
    for first in (0, 2):
        with boa.reverts("escrow: not the next receipt"):
            book.submit(root, draws, first=first)
    book.submit(root, draws)
    with boa.reverts("escrow: not the next receipt"):
        book.submit(root, draws)
    with boa.reverts("escrow: wrong sequence"):
        book.submit(root, draws, first=2)


def test_an_epoch_needs_its_last_receipt(world: World, book: Book) -> None:
    for payer in ("paul", "paula", "paul"):
        book.call(payer, 7)
    root, draws = book.draws()
    with boa.reverts("escrow: no receipt"):
        book.submit(root, [])
    with boa.reverts("escrow: last receipt missing"):
        book.submit(root, draws[:1])
    with boa.reverts("escrow: bad proof"):
        book.submit(root, draws, size=4)
    with boa.reverts("escrow: bad proof"):
        book.submit(root, draws, size=2)
    with boa.reverts("escrow: draws not rising"):
        book.submit(root, draws[::-1])
    with boa.reverts("escrow: draws not rising"):
        book.submit(root, [draws[0], draws[0], draws[1]])


def test_no_receipt_is_left_out_of_the_totals(world: World, book: Book) -> None:
    for payer in ("paul", "paula", "paul"):
        book.call(payer, 7)
    root, draws = book.draws()
    with boa.reverts("escrow: totals do not chain"):
        book.submit(root, draws[1:])
    book.submit(root, draws)


def test_one_payer_may_show_several_receipts(world: World, book: Book) -> None:
    for _ in range(3):
        book.call("paul", 7)
    tree = Tree([leaf for _, _, leaf in book.calls])
    draws = [book.draw(tree, index) for index in range(3)]
    book.submit(as_bytes(tree.root), draws)

    assert free(world) == 79


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "escrow: unknown receipt version"),
        ({"chain_id": 5}, "escrow: receipt of another chain"),
        ({"escrow": person("other")}, "escrow: receipt of another escrow"),
        ({"gateway": person("greg")}, "escrow: receipt of another gateway"),
        ({"gateway_sequence": 2}, "escrow: wrong sequence"),
        ({"gateway_total": 8}, "escrow: totals do not chain"),
        ({"gateway_total": 6}, "escrow: totals do not chain"),
        ({"payer_total": 8}, "escrow: over limit"),
        ({"payer_total": 6}, "escrow: totals do not chain"),
        ({"payer_commitment": b32("x").hex()}, "escrow: receipt of another payer"),
    ],
)
def test_a_false_receipt_is_refused(
    world: World, book: Book, change: dict[str, Any], reason: str
) -> None:
    book.call("paul", 7, **change)
    with boa.reverts(reason):
        book.submit(*book.draws())


@pytest.mark.parametrize("field", ["attribution", "proof", "index"])
def test_what_is_not_in_the_tree_is_refused(world: World, book: Book, field: str) -> None:
    book.call("paula", 0)
    book.call("paul", 7)
    root, draws = book.draws()
    wrong = {"attribution": b32("x"), "proof": [b32("x")], "index": 0}[field]
    reason = "escrow: wrong sequence" if field == "index" else "escrow: bad proof"
    with boa.reverts(reason):
        book.submit(root, [draws[-1].tuple(**{field: wrong})])
    with boa.reverts("escrow: bad proof"):
        book.submit(b32("root"), [draws[-1]])


def test_a_receipt_is_drawn_from_its_own_payer_only(world: World, book: Book) -> None:
    book.call("paul", 7)
    root, draws = book.draws()
    channel, voucher = book.voucher("paula", 7)
    with boa.reverts("escrow: receipt of another payer"):
        book.submit(root, [draws[0].tuple(channel=channel, voucher=voucher)])
    with boa.reverts("escrow: receipt of another payer"):
        book.submit(root, [draws[0].tuple(payer_salt=b32("x"))])


def cover(world: World, amount: int, gateway: str = "gwen") -> None:
    """Give a gateway money and let Escrow take as much."""
    world.token.transfer(person(gateway), amount, sender=person("holder"))
    world.token.approve(world.escrow, amount, sender=person(gateway))


def unpaid(world: World) -> list[tuple[str, int]]:
    """Payer and wei, as the last settlement logged them."""
    logs = [e for e in world.escrow.get_logs() if type(e).__name__ == "Unpaid"]
    assert all(e.gateway.lower() == person("gwen") for e in logs)
    return [(e.payer.lower(), e.amount) for e in logs]


def test_a_voucher_is_signed_by_its_payer(world: World, book: Book) -> None:
    book.call("paul", 7)
    with boa.reverts("token: over allowance"):
        book.submit(*book.draws(signer="mallory"))
    root, draws = book.draws()
    with boa.reverts("token: over allowance"):
        book.submit(root, [draws[0].tuple(limit=8)])
    with boa.reverts("signature: 65 bytes needed"):
        book.submit(root, [draws[0].tuple(voucher=b"\x01" * 64)])


def test_every_condition_is_bound_by_the_voucher(world: World, book: Book) -> None:
    book.call("paul", 7)
    root, draws = book.draws()
    channel = list(draws[0].fields["channel"])
    for position in range(2, 7):
        altered = list(channel)
        altered[position] = b32("x") if position == 6 else altered[position] - 1
        with boa.reverts("token: over allowance"):
            book.submit(root, [draws[0].tuple(channel=tuple(altered))])


def test_whoever_controls_the_payers_account_signs_for_it(world: World, book: Book) -> None:
    paul = person("paul")
    world.identity.register(paul, person("safe"), sender=paul)
    world.identity.propose_change(paul, person("paul2"), paul, person("safe"), sender=paul)
    book.call("paul", 7)
    with boa.reverts("token: over allowance"):
        book.submit(*book.draws(signer="paul2"))
    boa.env.time_travel(seconds=IDENTITY_DELAY)
    world.identity.apply_change(paul)

    with boa.reverts("token: over allowance"):
        book.submit(*book.draws())
    book.submit(*book.draws(signer="paul2"))
    assert free(world) == 93


def test_the_gateway_pays_what_a_payer_leaves_unpaid(world: World, book: Book) -> None:
    cover(world, 20)
    book.call("paula", 5)
    book.call("paul", 7)
    book.submit(*book.draws(expiry=boa.env.timestamp - 1))

    escrow, gwen = world.escrow, person("gwen")
    assert unpaid(world) == [(person("paula"), 5), (person("paul"), 7)]
    assert (free(world), free(world, "paula")) == (100, 100)
    assert (escrow.charged(person("paul"), gwen), escrow.charged(person("paula"), gwen)) == (7, 5)
    assert (escrow.drawn(gwen), escrow.covered(gwen)) == (12, 12)
    assert world.token.balanceOf(gwen) == 8
    assert world.token.balanceOf(world.payouts) == world.payouts.funded(gwen) == 12
    assert world.token.balanceOf(escrow) == 200


def test_one_who_pays_nothing_keeps_nobody_from_his_money(world: World, book: Book) -> None:
    cover(world, 7)
    book.call("paul", 7)
    book.call("paula", 5)
    book.settle(stale=["paul"])

    assert unpaid(world) == [(person("paul"), 7)]
    assert (free(world), free(world, "paula")) == (100, 95)
    assert world.escrow.covered(person("gwen")) == 7
    assert world.payouts.funded(person("gwen")) == 12


def test_the_gateway_gets_back_what_a_later_voucher_and_deposit_cover(
    world: World, book: Book
) -> None:
    cover(world, 30)
    gwen = person("gwen")
    book.call("paul", 130)
    book.settle()
    assert unpaid(world) == [(person("paul"), 30)]
    assert (free(world), world.token.balanceOf(gwen), world.escrow.covered(gwen)) == (0, 0, 30)
    world.identity.register(person("purse"), person("safe"), sender=gwen)
    world.deposit("paul", "gwen", 41)
    book.call("paul", 1)
    book.settle()

    assert unpaid(world) == []
    assert (free(world), world.escrow.covered(gwen)) == (10, 0)
    assert world.token.balanceOf(person("purse")) == 30
    assert world.payouts.funded(gwen) == world.escrow.drawn(gwen) == 131


def test_what_comes_back_from_one_payer_pays_for_another(world: World, book: Book) -> None:
    cover(world, 30)
    gwen = person("gwen")
    book.call("paul", 130)
    book.settle()
    world.deposit("paul", "gwen", 30)
    book.call("paul", 0)
    book.call("paula", 120)
    book.settle()

    assert unpaid(world) == [(person("paula"), 20)]
    assert (free(world), free(world, "paula"), world.escrow.covered(gwen)) == (0, 0, 20)
    assert world.token.balanceOf(gwen) == 10


def test_a_voucher_counts_at_its_gateway_only(world: World, book: Book) -> None:
    book.call("paul", 7)
    with boa.reverts("escrow: voucher for another gateway"):
        book.submit(*book.draws(gateway=person("greg")))


def test_a_voucher_counts_until_it_expires(world: World, book: Book) -> None:
    book.call("paul", 7)
    with boa.reverts("token: over allowance"):
        book.submit(*book.draws(expiry=boa.env.timestamp - 1))
    book.submit(*book.draws(expiry=boa.env.timestamp))


def test_nothing_is_drawn_above_the_limit(world: World, book: Book) -> None:
    book.call("paul", 7)
    with boa.reverts("escrow: over limit"):
        book.submit(*book.draws(limit=6))
    book.submit(*book.draws(limit=7))


def test_the_limit_is_cumulative_over_all_epochs(world: World, book: Book) -> None:
    book.call("paul", 7)
    book.settle()
    book.call("paul", 1)
    with boa.reverts("escrow: over limit"):
        book.submit(*book.draws(limit=7))


def test_nothing_is_drawn_above_the_deposit(world: World, book: Book) -> None:
    book.call("paul", 100)
    book.settle()
    book.call("paul", 1)
    with boa.reverts("token: over allowance"):
        book.submit(*book.draws())
    world.deposit("paul", "gwen", 1)
    book.submit(*book.draws())
    assert free(world) == 0


def test_a_payers_total_never_falls(world: World, book: Book) -> None:
    book.call("paul", 7)
    book.settle()
    book.totals["paul"] = 0
    book.total = 0
    book.call("paul", 6, gateway_total=13)
    with boa.reverts("escrow: payer total fell"):
        book.submit(*book.draws())


def test_balances_of_other_gateways_are_out_of_reach(world: World, book: Book) -> None:
    world.deposit("paul", "greg", 50)
    other = Book(world, "greg")
    other.call("paul", 51)
    with boa.reverts("token: over allowance"):
        other.submit(*other.draws())


def test_an_exit_waits_and_pays_what_was_asked(world: World, book: Book) -> None:
    escrow, paul, gwen = world.escrow, person("paul"), person("gwen")
    escrow.request_exit(gwen, 60, sender=paul)
    assert tuple(escrow.exits(paul, gwen)) == (60, boa.env.timestamp + EXIT_DELAY)
    boa.env.time_travel(seconds=EXIT_DELAY - 1)
    with boa.reverts("escrow: too early"):
        escrow.exit(gwen, sender=paul)
    boa.env.time_travel(seconds=1)
    escrow.exit(gwen, sender=paul)

    assert tuple(escrow.balance_of(paul, gwen)) == (100, 0, 60)
    assert world.token.balanceOf(paul) == 60
    with boa.reverts("escrow: no exit requested"):
        escrow.exit(gwen, sender=paul)


def test_an_exit_asks_for_free_money_only(world: World, book: Book) -> None:
    book.call("paul", 7)
    book.settle()
    with boa.reverts("escrow: over free balance"):
        world.escrow.request_exit(person("gwen"), 94, sender=person("paul"))
    with boa.reverts("escrow: nothing to exit"):
        world.escrow.request_exit(person("gwen"), 0, sender=person("paul"))
    world.escrow.request_exit(person("gwen"), 93, sender=person("paul"))


def test_what_left_is_not_free_a_second_time(world: World, book: Book) -> None:
    escrow, paul, gwen = world.escrow, person("paul"), person("gwen")
    escrow.request_exit(gwen, 60, sender=paul)
    boa.env.time_travel(seconds=EXIT_DELAY)
    escrow.exit(gwen, sender=paul)
    with boa.reverts("escrow: over free balance"):
        escrow.request_exit(gwen, 41, sender=paul)
    escrow.request_exit(gwen, 40, sender=paul)


def test_calls_made_before_the_exit_are_paid_first(world: World, book: Book) -> None:
    world.escrow.request_exit(person("gwen"), 100, sender=person("paul"))
    book.call("paul", 30)
    book.settle()
    boa.env.time_travel(seconds=EXIT_DELAY)
    world.escrow.exit(person("gwen"), sender=person("paul"))

    assert world.token.balanceOf(person("paul")) == 70
    assert tuple(world.escrow.balance_of(person("paul"), person("gwen"))) == (100, 30, 70)
    book.call("paul", 1)
    with boa.reverts("token: over allowance"):
        book.submit(*book.draws())


def test_an_exit_of_what_was_spent_finds_nothing(world: World, book: Book) -> None:
    world.escrow.request_exit(person("gwen"), 100, sender=person("paul"))
    book.call("paul", 100)
    book.settle()
    boa.env.time_travel(seconds=EXIT_DELAY)
    with boa.reverts("escrow: nothing left"):
        world.escrow.exit(person("gwen"), sender=person("paul"))


def test_a_new_request_replaces_the_old_and_waits_anew(world: World, book: Book) -> None:
    escrow, paul, gwen = world.escrow, person("paul"), person("gwen")
    escrow.request_exit(gwen, 60, sender=paul)
    boa.env.time_travel(seconds=EXIT_DELAY)
    escrow.request_exit(gwen, 10, sender=paul)
    with boa.reverts("escrow: too early"):
        escrow.exit(gwen, sender=paul)
    boa.env.time_travel(seconds=EXIT_DELAY)
    escrow.exit(gwen, sender=paul)

    assert world.token.balanceOf(paul) == 10


def test_an_exit_is_relayed_and_pays_the_payee(world: World, book: Book) -> None:
    paul, gwen = person("paul"), person("gwen")
    world.identity.register(person("purse"), person("safe"), sender=paul)
    with boa.reverts("relay: not the controller"):
        world.relay(world.escrow, "request_exit", "paul", gwen, 60, signer="gwen")
    world.relay(world.escrow, "request_exit", "paul", gwen, 60)
    boa.env.time_travel(seconds=EXIT_DELAY)
    with boa.reverts("relay: not the controller"):
        world.relay(world.escrow, "exit", "paul", gwen, signer="gwen")
    with boa.reverts("relay: not the controller"):
        world.relay(world.escrow, "exit", "paul", gwen, nonce=0)
    world.relay(world.escrow, "exit", "paul", gwen)

    assert world.token.balanceOf(person("purse")) == 60
    assert world.escrow.balance_of(paul, gwen)[2] == 60


def test_who_lost_control_of_an_account_cannot_exit(world: World, book: Book) -> None:
    paul, gwen = person("paul"), person("gwen")
    world.identity.register(person("purse"), person("safe"), sender=paul)
    world.escrow.request_exit(gwen, 60, sender=paul)
    world.identity.propose_change(
        paul, person("new"), person("purse"), person("safe"), sender=person("safe")
    )
    boa.env.time_travel(seconds=EXIT_DELAY)
    world.identity.apply_change(paul)
    with boa.reverts("relay: not the controller"):
        world.escrow.exit(gwen, sender=paul)
    with boa.reverts("relay: not the controller"):
        world.escrow.request_exit(gwen, 1, sender=paul)
    world.relay(world.escrow, "exit", "paul", gwen, signer="new")


def test_the_last_receipt_of_ten_thousand_settles_them_all(world: World) -> None:
    world.deposit("paul", "gwen", 10_000)
    book = Book(world, "gwen")
    book.call("paul", 10_000, gateway_sequence=10_000)
    payer, receipt, leaf = book.calls[0]
    filler = [b32(f"call {i}") + b32("statement") for i in range(9_999)]
    tree = Tree([*filler, leaf])
    draw = book.draw(Tree([leaf]), 0).tuple(
        index=9_999, proof=[as_bytes(step) for step in tree.prove(9_999).path]
    )
    book.submit(as_bytes(tree.root), [draw], size=10_000)

    assert (payer, receipt.payer_total, free(world)) == ("paul", 10_000, 0)
    assert world.escrow.next_sequence(person("gwen")) == 10_001


def test_thirty_two_payers_settle_together(world: World) -> None:
    book = Book(world, "gwen")
    for number in range(32):
        world.deposit(f"payer {number}", "gwen", 3)
        book.call(f"payer {number}", 3)
    assert book.settle() == 96
