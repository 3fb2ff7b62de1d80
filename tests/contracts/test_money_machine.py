"""Escrow and Payouts against a model in Python, over random lives.

Amounts are drawn relative to the state and its edges: uniform amounts never reach the deep
states, and mutants of the contracts survive them.
"""

import os
from typing import Any

import boa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from world import EXIT_DELAY, OPEN, PAYOUT_DELAY, Book, PayoutTree, World, person

PAYERS = ("paul", "paula", "peter")
GATEWAYS = ("gwen", "greg")
EARNERS = ("ann", "ben", "paul", "commons")
SUPPLY = 10**9 * OPEN
RESERVE = 10**6  # wei that a gateway has to pay for its payers with

payers = st.sampled_from(PAYERS)
gateways = st.sampled_from(GATEWAYS)
quarters = st.integers(0, 4)
edges = st.sampled_from([0, 0, 0, 0, 1, -1])


class Money(RuleBasedStateMachine):
    """What each payer, gateway and earner should have."""

    world: World | None = None

    @initialize()
    def start(self) -> None:
        assert Money.world is not None
        self.w = Money.world
        self.anchor = boa.env.anchor()
        self.anchor.__enter__()
        pairs = [(p, g) for p in PAYERS for g in GATEWAYS]
        self.deposited = dict.fromkeys(pairs, 0)
        self.withdrawn = dict.fromkeys(pairs, 0)
        self.asked: dict[tuple[str, str], tuple[int, int]] = {}
        self.spent = dict.fromkeys(pairs, 0)
        self.books = {g: Book(self.w, g) for g in GATEWAYS}
        for gateway in GATEWAYS:
            self.w.token.transfer(person(gateway), RESERVE, sender=person("holder"))
        self.earned = {g: dict.fromkeys(self.accounts(), 0) for g in GATEWAYS}
        self.roots: dict[str, list[PayoutTree]] = {g: [] for g in GATEWAYS}
        self.claimed = {(g, a): 0 for g in GATEWAYS for a in self.accounts()}
        for payer, gateway in pairs:
            self.deposit(payer, gateway, 400)
        self.settle("gwen", [("paul", 2, 0), ("paula", 1, 0)], [], 0)
        self.publish("gwen", (1, 2, 3, 4))

    def accounts(self) -> dict[str, str]:
        """Address -> name."""
        commons = str(self.w.payouts.address).lower()
        return {commons if name == "commons" else person(name): name for name in EARNERS}

    def free(self, payer: str, gateway: str) -> int:
        pair = (payer, gateway)
        return self.deposited[pair] - self.withdrawn[pair] - self.spent[pair]

    @rule(payer=payers, gateway=gateways, amount=st.integers(1, 1000))
    def deposit(self, payer: str, gateway: str, amount: int) -> None:
        self.w.deposit(payer, gateway, amount)
        self.deposited[payer, gateway] += amount

    @rule(
        gateway=gateways,
        calls=st.lists(st.tuples(payers, quarters, edges), min_size=1, max_size=4),
        stale=st.lists(payers, max_size=2),
        approved=edges,
    )
    def settle(
        self, gateway: str, calls: list[tuple[str, int, int]], stale: list[str], approved: int
    ) -> None:
        book = self.books[gateway]
        before = (dict(book.totals), dict(book.counts), book.total, book.previous)
        used: dict[str, int] = {}
        for payer, part, off in calls:
            left = self.free(payer, gateway) - used.get(payer, 0)
            fee = max(0, left * part // 4 + off)
            book.call(payer, fee)
            used[payer] = used.get(payer, 0) + fee
        pays = {payer: self.pays(payer, gateway) for payer in used if payer not in stale}
        missing = sum(used.values()) - sum(pays.values())
        allowed = max(0, missing + approved)
        self.w.token.approve(self.w.escrow, allowed, sender=person(gateway))
        if missing > allowed:
            with boa.reverts("token: over allowance"):
                book.submit(*book.draws(stale))
            book.totals, book.counts, book.total, book.previous = before
            book.calls = []
            return
        held = self.w.token.balanceOf(person(gateway))
        book.settle(stale)
        for payer, amount in pays.items():
            self.spent[payer, gateway] += amount
        assert self.w.token.balanceOf(person(gateway)) == held - missing

    def pays(self, payer: str, gateway: str) -> int:
        """What a payer's money pays of all that he was ever charged and did not pay."""
        owes = self.books[gateway].totals.get(payer, 0) - self.spent[payer, gateway]
        return min(owes, self.free(payer, gateway))

    @rule(gateway=gateways, payer=payers, part=quarters, short=st.sampled_from([1, 2]))
    def settle_over_the_voucher(self, gateway: str, payer: str, part: int, short: int) -> None:
        book = self.books[gateway]
        before = (dict(book.totals), dict(book.counts), book.total, book.previous)
        book.call(payer, max(short, self.free(payer, gateway) * part // 4))
        with boa.reverts("escrow: over limit"):
            book.submit(*book.draws(limit=book.totals[payer] - short))
        self.w.token.approve(self.w.escrow, 0, sender=person(gateway))
        with boa.reverts("token: over allowance"):
            book.submit(*book.draws(signer=gateway))
        book.totals, book.counts, book.total, book.previous = before
        book.calls = []

    @rule(payer=payers, gateway=gateways, part=quarters, off=edges)
    def request_exit(self, payer: str, gateway: str, part: int, off: int) -> None:
        free = self.free(payer, gateway)
        amount = max(0, free * part // 4 + off)
        request = self.w.escrow.request_exit
        if 0 < amount <= free:
            request(person(gateway), amount, sender=person(payer))
            self.asked[payer, gateway] = (amount, boa.env.timestamp + EXIT_DELAY)
            return
        with boa.reverts("escrow: over free balance" if amount else "escrow: nothing to exit"):
            request(person(gateway), amount, sender=person(payer))

    @rule(payer=payers, gateway=gateways)
    def exit(self, payer: str, gateway: str) -> None:
        amount, ready_at = self.asked.get((payer, gateway), (0, 0))
        amount = min(amount, self.free(payer, gateway))
        before = self.w.token.balanceOf(person(payer))
        reason = "escrow: nothing left" if not amount else None
        reason = "escrow: too early" if boa.env.timestamp < ready_at else reason
        reason = "escrow: no exit requested" if not ready_at else reason
        if reason:
            with boa.reverts(reason):
                self.w.escrow.exit(person(gateway), sender=person(payer))
            return
        self.w.escrow.exit(person(gateway), sender=person(payer))
        del self.asked[payer, gateway]
        self.withdrawn[payer, gateway] += amount
        assert self.w.token.balanceOf(person(payer)) == before + amount

    @rule(seconds=st.sampled_from([1, PAYOUT_DELAY, EXIT_DELAY]))
    def wait(self, seconds: int) -> None:
        boa.env.time_travel(seconds=seconds)

    @rule(gateway=gateways, weights=st.tuples(*[st.integers(0, 9)] * 4), over=edges)
    def publish(self, gateway: str, weights: tuple[int, ...], over: int = 0) -> None:
        drawn = self.books[gateway].drawn
        promised = sum(self.earned[gateway].values())
        parts = [(drawn - promised) * weight // max(1, sum(weights)) for weight in weights]
        owed = {a: n + parts[i] for i, (a, n) in enumerate(self.earned[gateway].items())}
        tree = self.w.payout(gateway, owed)
        if over == 1:
            with boa.reverts("payouts: over funds"):
                self.propose(tree, drawn + 1)
        if over == -1 and promised:
            with boa.reverts("payouts: total must not fall"):
                self.propose(tree, promised - 1)
        tree.activate()
        self.earned[gateway] = owed
        self.roots[gateway].append(tree)

    def propose(self, tree: PayoutTree, total: int) -> None:
        self.w.payouts.propose(tree.gateway, tree.root, tree.size, total, sender=tree.gateway)

    @rule(gateway=gateways, earner=st.integers(0, 3), age=st.sampled_from([0, 0, 0, 1, 2, 7, 8]))
    def claim(self, gateway: str, earner: int, age: int) -> None:
        roots = self.roots[gateway]
        if len(roots) <= age:
            return
        account, name = list(self.accounts().items())[earner]
        tree = roots[-1 - age]
        claim = tree.claim(account, len(roots) - age)
        done = self.claimed[gateway, account]
        reason = "payouts: nothing to claim" if tree.owed[account] <= done else None
        reason = "payouts: root too old" if age >= 8 else reason
        reason = "payouts: the commons claims nothing" if name == "commons" else reason
        if reason:
            with boa.reverts(reason):
                self.w.payouts.claim(account, *claim)
            return
        before = self.w.token.balanceOf(account)
        self.w.payouts.claim(account, *claim)
        assert self.w.token.balanceOf(account) == before + tree.owed[account] - done
        self.claimed[gateway, account] = tree.owed[account]

    @rule(gateway=gateways, earner=st.integers(0, 2), more=st.sampled_from([1, -1, 100]))
    def forge_a_claim(self, gateway: str, earner: int, more: int) -> None:
        if not self.roots[gateway]:
            return
        account = list(self.accounts())[earner]
        tree = self.roots[gateway][-1]
        claim: list[Any] = list(tree.claim(account, len(self.roots[gateway])))
        claim[2] = max(0, claim[2] + more) if claim[2] + more >= 0 else claim[2] + 1
        with boa.reverts("payouts: bad proof"):
            self.w.payouts.claim(account, *claim)

    @invariant()
    def balances_fit(self) -> None:
        if not hasattr(self, "anchor"):
            return
        free = sum(self.free(*pair) for pair in self.deposited)
        drawn = sum(book.drawn for book in self.books.values())
        assert self.w.token.balanceOf(self.w.escrow) == free
        assert self.w.token.balanceOf(self.w.payouts) == drawn - sum(self.claimed.values())
        paid = sum(self.spent.values())
        assert sum(self.deposited.values()) == free + paid + sum(self.withdrawn.values())

    def teardown(self) -> None:
        """Compare every figure at the end of a life: each of them only ever rises."""
        if not hasattr(self, "anchor"):
            return
        try:
            self.check_escrow()
            self.check_payouts()
            everyone = [person(n) for n in ("holder", "ann", "ben", *PAYERS, *GATEWAYS)]
            everyone += [self.w.escrow.address, self.w.payouts.address]
            assert sum(self.w.token.balanceOf(one) for one in everyone) == SUPPLY
        finally:
            self.anchor.__exit__(None, None, None)

    def check_escrow(self) -> None:
        for (payer, gateway), deposited in self.deposited.items():
            balance = tuple(self.w.escrow.balance_of(person(payer), person(gateway)))
            spent = self.spent[payer, gateway]
            assert balance == (deposited, spent, self.withdrawn[payer, gateway])
            charged = self.w.escrow.charged(person(payer), person(gateway))
            assert charged == self.books[gateway].totals.get(payer, 0)
        for gateway, book in self.books.items():
            covered = book.drawn - sum(self.spent[payer, gateway] for payer in PAYERS)
            assert self.w.escrow.covered(person(gateway)) == covered
            assert self.w.token.balanceOf(person(gateway)) == RESERVE - covered

    def check_payouts(self) -> None:
        payouts = self.w.payouts
        for gateway in GATEWAYS:
            address = person(gateway)
            drawn = self.books[gateway].drawn
            claimed = {a: self.claimed[gateway, a] for a in self.accounts()}
            promised, paid = payouts.promised(address), payouts.paid(address)
            assert self.w.escrow.drawn(address) == payouts.funded(address) == drawn
            assert promised == sum(self.earned[gateway].values())
            assert paid == sum(claimed.values())
            assert {a: payouts.claimed(address, a) for a in claimed} == claimed
            assert paid <= promised <= drawn


def test_no_life_makes_or_loses_a_wei(deployed: World) -> None:
    Money.world = deployed  # before the run: titanoboa forgets what an example deploys
    phases = [Phase.generate] if os.environ.get("NO_SHRINK") else list(Phase)
    run_state_machine_as_test(
        Money,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", "150")),
            stateful_step_count=int(os.environ.get("STEPS", "8")),
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=phases,
        ),
    )
