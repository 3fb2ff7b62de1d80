import boa
import pytest
from world import PAYOUT_DELAY, Book, World, b32, person

ZERO = b"\x00" * 32
GWEN = person("gwen")
DAY = 86_400


@pytest.fixture
def funded(world: World) -> World:
    """Gwen drew 100 wei, greg 40."""
    for gateway, amount in (("gwen", 100), ("greg", 40)):
        world.deposit("paul", gateway, amount)
        book = Book(world, gateway)
        book.call("paul", amount)
        book.settle()
    return world


def owed(**amounts: int) -> dict[str, int]:
    return {person(name): amount for name, amount in amounts.items()}


def test_only_the_escrow_funds(world: World) -> None:
    with boa.reverts("payouts: not the escrow"):
        world.payouts.fund(GWEN, 1, sender=GWEN)


def test_a_root_becomes_claimable_after_its_delay(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60, ben=40))
    tree.propose()
    waiting = tuple(funded.payouts.pending(GWEN))
    assert waiting == (tree.root, 2, 100, boa.env.timestamp + PAYOUT_DELAY)
    boa.env.time_travel(seconds=PAYOUT_DELAY - 1)
    with boa.reverts("payouts: too early"):
        funded.payouts.activate(GWEN)
    assert funded.payouts.promised(GWEN) == 0
    boa.env.time_travel(seconds=1)
    funded.payouts.activate(GWEN, sender=person("anyone"))

    assert tuple(funded.payouts.roots(GWEN, 1)) == (tree.root, 2, 100)
    assert (funded.payouts.promised(GWEN), funded.payouts.root_count(GWEN)) == (100, 1)
    with boa.reverts("payouts: nothing pending"):
        funded.payouts.activate(GWEN)


def test_only_the_gateways_controller_proposes(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60))
    for stranger in (person("greg"), person("guardian")):
        with boa.reverts("payouts: not the gateway"):
            funded.payouts.propose(GWEN, tree.root, 1, 60, sender=stranger)


def test_a_pending_root_is_not_replaced(funded: World) -> None:
    funded.payout("gwen", owed(ann=60)).propose()
    with boa.reverts("payouts: one is pending"):
        funded.payout("gwen", owed(ann=61)).propose()


def test_a_gateway_promises_only_what_its_vouchers_drew(funded: World) -> None:
    with boa.reverts("payouts: over funds"):
        funded.payout("gwen", owed(ann=101)).propose()
    with boa.reverts("payouts: over funds"):
        funded.payout("gina", owed(ann=1)).propose()
    funded.payout("gwen", owed(ann=100)).propose()


def test_what_is_promised_never_falls(funded: World) -> None:
    funded.payout("gwen", owed(ann=60)).activate()
    with boa.reverts("payouts: total must not fall"):
        funded.payout("gwen", owed(ann=59)).propose()
    funded.payout("gwen", owed(ann=60)).propose()


def test_an_empty_tree_is_refused(funded: World) -> None:
    with boa.reverts("payouts: empty tree"):
        funded.payouts.propose(GWEN, b32("root"), 0, 60, sender=GWEN)


def test_the_guardian_drops_a_pending_root_with_a_reason(funded: World) -> None:
    guardian = person("guardian")
    with boa.reverts("payouts: nothing pending"):
        funded.payouts.veto(GWEN, b32("why"), sender=guardian)
    tree = funded.payout("gwen", owed(ann=60))
    tree.propose()
    with boa.reverts("payouts: not the guardian"):
        funded.payouts.veto(GWEN, b32("why"), sender=GWEN)
    with boa.reverts("payouts: no reason"):
        funded.payouts.veto(GWEN, ZERO, sender=guardian)
    funded.payouts.veto(GWEN, b32("why"), sender=guardian)
    boa.env.time_travel(seconds=PAYOUT_DELAY)
    with boa.reverts("payouts: nothing pending"):
        funded.payouts.activate(GWEN)
    assert tree.activate() == 1


def test_an_active_root_is_beyond_the_guardian(funded: World) -> None:
    funded.payout("gwen", owed(ann=60)).activate()
    with boa.reverts("payouts: nothing pending"):
        funded.payouts.veto(GWEN, b32("why"), sender=person("guardian"))


def test_a_claim_pays_once(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60, ben=40))
    number = tree.activate()
    claim = tree.claim(person("ann"), number)
    funded.payouts.claim(person("ann"), *claim, sender=person("anyone"))

    assert funded.token.balanceOf(person("ann")) == 60
    assert funded.payouts.claimed(GWEN, person("ann")) == funded.payouts.paid(GWEN) == 60
    with boa.reverts("payouts: nothing to claim"):
        funded.payouts.claim(person("ann"), *claim)


def test_one_claim_pays_all_epochs_missed(funded: World) -> None:
    for amount in (10, 30, 60):
        tree = funded.payout("gwen", owed(ann=amount, ben=40))
        number = tree.activate()
    funded.payouts.claim(person("ann"), *tree.claim(person("ann"), number))

    assert funded.token.balanceOf(person("ann")) == 60


def test_an_old_proof_pays_no_more_than_it_names(funded: World) -> None:
    old = funded.payout("gwen", owed(ann=10))
    old.activate()
    new = funded.payout("gwen", owed(ann=60))
    new.activate()
    funded.payouts.claim(person("ann"), *old.claim(person("ann"), 1))
    assert funded.token.balanceOf(person("ann")) == 10
    funded.payouts.claim(person("ann"), *new.claim(person("ann"), 2))
    assert funded.token.balanceOf(person("ann")) == 60
    with boa.reverts("payouts: nothing to claim"):
        funded.payouts.claim(person("ann"), *old.claim(person("ann"), 1))


def test_a_root_is_claimable_until_eight_newer_ones_are_active(funded: World) -> None:
    first = funded.payout("gwen", owed(ann=1, ben=2))
    first.activate()
    for amount in range(2, 9):
        funded.payout("gwen", owed(ann=amount, ben=2)).activate()
    assert funded.payouts.root_count(GWEN) == 8
    funded.payouts.claim(person("ann"), *first.claim(person("ann"), 1))
    funded.payout("gwen", owed(ann=9, ben=2)).activate()
    with boa.reverts("payouts: root too old"):
        funded.payouts.claim(person("ben"), *first.claim(person("ben"), 1))


def test_a_root_that_is_not_active_pays_nothing(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60))
    tree.activate()
    for number in (0, 2):
        with boa.reverts("payouts: unknown root"):
            funded.payouts.claim(person("ann"), *tree.claim(person("ann"), number))


@pytest.mark.parametrize("position", range(5))
def test_what_the_root_does_not_hold_is_refused(funded: World, position: int) -> None:
    other = funded.payout("greg", owed(ann=15, ben=25))
    other.activate()
    tree = funded.payout("gwen", owed(ann=60, ben=40))
    claim = list(tree.claim(person("ann"), tree.activate()))
    wrong = [person("greg"), None, 61, 1 - claim[3], [b32("x")]]
    if position == 1:
        with boa.reverts("payouts: bad proof"):
            funded.payouts.claim(person("ben"), *claim)
        return
    claim[position] = wrong[position]
    with boa.reverts("payouts: bad proof"):
        funded.payouts.claim(person("ann"), *claim)


def test_an_index_beyond_the_tree_is_refused(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60))
    gateway, number, amount, _, path = tree.claim(person("ann"), tree.activate())
    with boa.reverts("payouts: bad proof"):
        funded.payouts.claim(person("ann"), gateway, number, amount, 1, path)


def test_the_payee_gets_the_money(funded: World) -> None:
    funded.identity.register(person("purse"), person("safe"), sender=person("ann"))
    tree = funded.payout("gwen", owed(ann=60))
    funded.payouts.claim(person("ann"), *tree.claim(person("ann"), tree.activate()))

    assert funded.token.balanceOf(person("purse")) == 60
    assert funded.payouts.claimed(GWEN, person("ann")) == 60


def test_the_commons_claims_nothing(funded: World) -> None:
    commons = str(funded.payouts.address).lower()
    tree = funded.payout("gwen", {commons: 60})
    claim = tree.claim(commons, tree.activate())
    with boa.reverts("payouts: the commons claims nothing"):
        funded.payouts.claim(commons, *claim)
    with boa.reverts("payouts: the commons claims nothing"):
        funded.payouts.claim_many(commons, [claim])


def test_a_root_that_owes_more_than_its_total_takes_nobody_elses(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60, ben=80))
    funded.payouts.propose(GWEN, tree.root, 2, 100, sender=GWEN)
    boa.env.time_travel(seconds=PAYOUT_DELAY)
    funded.payouts.activate(GWEN)
    funded.payouts.claim(person("ben"), *tree.claim(person("ben"), 1))
    with boa.reverts("payouts: over promised"):
        funded.payouts.claim(person("ann"), *tree.claim(person("ann"), 1))

    assert funded.token.balanceOf(funded.payouts) == 60


def test_several_gateways_pay_in_one_transfer(funded: World) -> None:
    gwen = funded.payout("gwen", owed(ann=60, ben=40))
    greg = funded.payout("greg", owed(ann=15))
    claims = [
        gwen.claim(person("ann"), gwen.activate()),
        greg.claim(person("ann"), greg.activate()),
    ]
    funded.payouts.claim(person("ann"), *claims[0])
    funded.payouts.claim_many(person("ann"), claims)

    assert funded.token.balanceOf(person("ann")) == 75
    for repeated in (claims, []):
        with boa.reverts("payouts: nothing to claim"):
            funded.payouts.claim_many(person("ann"), repeated)
    with boa.reverts("payouts: bad proof"):
        funded.payouts.claim_many(person("ben"), claims)


def test_a_claim_twice_in_one_call_pays_once(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60, ben=40))
    claim = tree.claim(person("ann"), tree.activate())
    funded.payouts.claim_many(person("ann"), [claim, claim])

    assert funded.token.balanceOf(person("ann")) == 60


def test_a_pause_stops_propose_and_activate_but_no_claim(funded: World) -> None:
    tree = funded.payout("gwen", owed(ann=60))
    number = tree.activate()
    greg = funded.payout("greg", owed(ann=15))
    greg.propose()
    funded.payouts.pause(7 * DAY, sender=person("guardian"))
    boa.env.time_travel(seconds=7 * DAY - 1)
    with boa.reverts("payouts: paused"):
        funded.payout("gwen", owed(ann=70)).propose()
    with boa.reverts("payouts: paused"):
        funded.payouts.activate(person("greg"))
    funded.payouts.claim(person("ann"), *tree.claim(person("ann"), number))
    boa.env.time_travel(seconds=1)
    funded.payouts.activate(person("greg"))
    funded.payout("gwen", owed(ann=70)).propose()


def test_a_pause_is_the_guardians_and_bounded(funded: World) -> None:
    guardian = person("guardian")
    with boa.reverts("payouts: not the guardian"):
        funded.payouts.pause(1, sender=GWEN)
    with boa.reverts("payouts: pause too long"):
        funded.payouts.pause(7 * DAY + 1, sender=guardian)
    funded.payouts.pause(1, sender=guardian)
    assert funded.payouts.get_logs()[-1].until == boa.env.timestamp + 1
    assert funded.payouts.paused_until() == boa.env.timestamp + 1
    boa.env.time_travel(seconds=30 * DAY - 1)
    with boa.reverts("payouts: paused lately"):
        funded.payouts.pause(1, sender=guardian)
    boa.env.time_travel(seconds=1)
    funded.payouts.pause(7 * DAY, sender=guardian)


def test_contracts_know_each_other(world: World) -> None:
    assert world.payouts.escrow() == world.escrow.address
    assert world.payouts.identity() == world.escrow.identity() == world.identity.address
    assert world.payouts.token() == world.escrow.token() == world.token.address
    assert world.escrow.payouts() == world.payouts.address
    assert world.payouts.guardian().lower() == person("guardian")
    assert world.payouts.delay() == PAYOUT_DELAY
