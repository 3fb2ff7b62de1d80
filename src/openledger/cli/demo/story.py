"""The acts of the demonstration, in order, each one an operation that any user has.

Every step finds what an earlier run of it did, so a demonstration that was killed anywhere goes on
where it stopped and ends with the same totals.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from openledger.cli.demo.calls import Caller
from openledger.cli.demo.script import Act, Question
from openledger.cli.output import Output, open_amount, percent, printable, table
from openledger.core.errors import (
    ConflictError,
    NothingToSettleError,
    UnavailableError,
    VerificationError,
)
from openledger.core.types import WEI_PER_OPEN, Account, Wei
from openledger.flows.model.train.flow import Metrics, Step
from openledger.flows.money.identity import Identity
from openledger.storage.jobs import find
from openledger.storage.records.data.accounts import AccountKind
from openledger.web.operations import datanets, epochs, models, receipts, sources, wallets
from openledger.web.operations.operation import Nothing
from openledger.web.operations.receipts import ReceiptView
from openledger.web.server import RunningServer
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform

PAYER = "developer"
DEPOSIT = Wei(2 * WEI_PER_OPEN)
_ONCE = "demo"  # names the deposit, so that a second run finds it


class CallRecord(msgspec.Struct, frozen=True):
    """One call, for the last object of --json."""

    receipt: str
    fee: Wei
    shares: dict[str, int]  # account to parts per billion
    nobody: int


class Perplexity(msgspec.Struct, frozen=True):
    """On held-out text, before and after."""

    base: float
    adapter: float


class Held(msgspec.Struct, frozen=True):
    """Whether the money identity holds."""

    holds: bool


class Outcome(msgspec.Struct, frozen=True):
    """The last object of `openledger demo --json`."""

    seconds: float
    first_answer_seconds: float | None  # None: answered by an earlier run
    stages: dict[str, float]
    perplexity: Perplexity
    held_out_tokens: int
    training_tokens: int
    contributors: int
    calls: tuple[CallRecord, ...]
    epoch: int
    claims: dict[str, Wei]
    identity: Held


class Stage(msgspec.Struct, frozen=True):
    """A stage that ended, for --json."""

    stage: str
    seconds: float


class Story:
    """One telling of it."""

    def __init__(self, platform: Platform, output: Output, started_s: float) -> None:
        self._platform = platform
        self._output = output
        self._started_s = started_s
        self._stages: dict[str, float] = {}
        self._first_answer_s: float | None = None
        self._last_line_s = 0.0

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Say what begins, and how long it took."""
        self._output.talk(f"\n{len(self._stages) + 1}. {what}")
        started = time.monotonic()
        yield
        self._stages[name] = round(time.monotonic() - started, 2)
        if self._output.as_json:
            self._output.result(Stage(name, self._stages[name]), "")
        self._output.talk(f"   done in {self._stages[name]:.1f} s")

    def make(self, act: Act) -> bool:
        """Contribute, train and publish one act; False when this machine cannot fetch its data."""
        try:
            self._contribute(act)
        except UnavailableError as error:
            self._output.talk(f"   left out: {error}")
            return False
        self._train(act)
        with self.stage(f"publish {act.model}", f"Publish {act.model} on chain"):
            made = models.publish(self._platform, models.NewRelease(act.datanet, act.model))
            self._output.talk(
                f"   {made.name} is release {made.number}; "
                f"{made.terms.policy.data / 100:g} % of every fee is for data"
            )
        return True

    def fund(self) -> str:
        """Give the developer play money, a deposit and an API key."""
        with self.stage("deposit", "A developer deposits and gets an API key"):
            label = wallets.USER + PAYER
            payer = self._platform.account(label, AccountKind.USER, PAYER)
            self._platform.fund.faucet(payer.address, DEPOSIT, _ONCE)
            has = self._platform.fund.deposit(payer, DEPOSIT, _ONCE)
            self._output.talk(
                f"   {open_amount(has.escrow.deposited)} OPEN in escrow, "
                "one voucher signed, no gas needed"
            )
            return wallets.new_key(self._platform, wallets.NewKey(PAYER, "demo")).key

    def ask(self, server: RunningServer, key: str, act: Act) -> list[ReceiptView]:
        """Make the act's calls and wait for their attribution."""
        caller = Caller(server.url, key)
        return [self._call(caller, act, question) for question in act.questions]

    def settle(self) -> epochs.EpochView:
        """Settle every attributed receipt on chain."""
        with self.stage("settle", "Settle the epoch on chain"):
            try:
                made = epochs.settle(self._platform, Nothing())
            except NothingToSettleError:  # an earlier run settled all of them
                made = epochs.show(self._platform, epochs.Which())
            self._output.talk(
                f"   epoch {made.number}: {made.size} receipts, "
                f"{open_amount(made.drawn)} OPEN drawn, root {made.root[:16]}…"
            )
            return made

    def claim(self) -> dict[str, Wei]:
        """Everyone claims; what each was ever paid."""
        with self.stage("claim", "Everyone who earned something claims it"):
            wallets.claim(self._platform, wallets.ClaimFor())
            found = wallets.balance(self._platform, wallets.ClaimFor()).accounts
            paid = {one.address: one.claimed for one in found if one.claimed}
            total = sum(paid.values())
            self._output.talk(f"   {len(paid)} accounts were paid {open_amount(total)} OPEN")
            return {str(account): amount for account, amount in paid.items()}

    def check(self) -> Identity:
        """The money identity, from chain and database apart.

        Raises:
            VerificationError: it is broken.
        """
        with self.stage("identity", "Check every wei, from chain and database apart"):
            found = epochs.identity(self._platform, Nothing())
            if not found.holds:
                raise VerificationError(f"the money identity is broken: {found.broken}")
            self._output.talk(
                f"   deposited {open_amount(found.chain.deposited)} = spent "
                f"{open_amount(found.chain.spent)} + free "
                f"{open_amount(found.chain.escrow_holds)} OPEN: it holds"
            )
            return found

    def end(self, act: Act, answers: list[ReceiptView], claims: dict[str, Wei]) -> Outcome:
        """The last table, and the last object."""
        run = models.show_run(self._platform, models.Which(act.datanet))
        metrics = msgspec.json.decode(run.metrics, type=Metrics)
        self._output.talk("\nWho contributed, how often it was used, what it earned:\n")
        self._output.talk(self._table(act, answers))
        return Outcome(
            seconds=round(time.monotonic() - self._started_s, 2),
            first_answer_seconds=self._first_answer_s,
            stages=self._stages,
            perplexity=Perplexity(metrics.base_perplexity, metrics.perplexity),
            held_out_tokens=metrics.held_out_tokens,
            training_tokens=metrics.training_tokens,
            contributors=metrics.contributors,
            calls=tuple(_record(view) for view in answers),
            epoch=epochs.show(self._platform, epochs.Which()).number,
            claims=claims,
            identity=Held(True),
        )

    def _contribute(self, act: Act) -> None:
        with self.stage(
            f"contribute {act.datanet}", f"Bring in {act.source}: commit, clean, seal, reveal"
        ):
            wanted = sources.Bring(act.source, act.training_tokens, act.held_out_tokens)
            made = sources.bring(self._platform, wanted)
            chunks = sum(one.chunks for one in made.contributions)
            self._output.talk(
                f"   {len(made.contributions)} contributors, {chunks} chunks, "
                f"Datanet {made.number} on chain, head {made.head[:16]}…"
            )

    def _train(self, act: Act) -> None:
        with self.stage(f"train {act.datanet}", f"Fine-tune an adapter on {act.datanet}"):
            self._platform.models.tell = self._hear
            choice = models.RecipeChoice(
                held_out_bps=act.held_out_bps, scored_tunes=act.scored_tunes
            )
            new = models.NewRun((act.datanet,), act.datanet, _ONCE + act.datanet, choice=choice)
            run = models.start(self._platform, new)
            self._output.talk(
                f"   run {run.number} begun on chain; its seed came from a later block"
            )
            worker_of(self._platform).drain()
            run = models.show_run(self._platform, models.Which(run.id))
            if run.state != "trained":
                raise ConflictError(f"training stopped: {self._why(run.id) or run.state}")
            metrics = msgspec.json.decode(run.metrics, type=Metrics)
            self._output.talk(
                f"   held-out perplexity {metrics.base_perplexity:.1f} -> "
                f"{metrics.perplexity:.1f} on {metrics.held_out_tokens} tokens of other titles"
            )
            if metrics.tunes is not None:
                tunes = metrics.tunes
                self._output.talk(
                    f"   {tunes.tunes} tunes written: {tunes.parsed:.0%} parse, "
                    f"{tunes.full_bars:.0%} of bars sum to the metre, {tunes.copied:.0%} copied"
                )

    def _why(self, run_id: str) -> str | None:
        with self._platform.database.read() as transaction:
            job = find(transaction, models.TRAIN_JOB, run_id)
        return None if job is None else job.error

    def _hear(self, step: Step) -> None:
        now = time.monotonic()
        if now - self._last_line_s < 5 and step.done != step.total:
            return
        self._last_line_s = now
        loss = "" if step.loss is None else f", loss {step.loss:.2f}"
        left = "" if step.seconds_left is None else f", {step.seconds_left:.0f} s left"
        self._output.talk(f"   {step.stage} {step.done}/{step.total}{loss}{left}")

    def _call(self, caller: Caller, act: Act, question: Question) -> ReceiptView:
        with self.stage(f"call {question.key}", f"A paid call: {question.note}"):
            answer = caller.ask(act.model, question, lambda _: None)
            caller.wait_for_attribution(answer.receipt)
            if self._first_answer_s is None:
                self._first_answer_s = round(time.monotonic() - self._started_s, 2)
            view = receipts.show(self._platform, receipts.ShowReceipt(answer.receipt))
            self._show(question, answer.text, view)
            return view

    def _show(self, question: Question, text: str, view: ReceiptView) -> None:
        for line in (question.prompt + text).strip().splitlines()[:14]:
            self._output.talk(f"   | {printable(line[:90])}")
        paid = sorted(
            (part for part in view.parts if part.share_ppb), key=lambda part: -part.amount
        )
        self._output.talk(
            f"   {open_amount(view.fee)} OPEN for {view.input_tokens} + {view.output_tokens} "
            f"tokens; {view.receipt}"
        )
        for part in paid[:4]:
            self._output.talk(
                f"     {percent(part.share_ppb or 0):>7}  {part.name}: {open_amount(part.amount)}"
            )
        if len(paid) > 4:
            self._output.talk(f"     and {len(paid) - 4} more contributors")
        self._output.talk(f"     {percent(view.nobody_ppb):>7}  nobody's data, to commons")

    def _table(self, act: Act, answers: list[ReceiptView]) -> str:
        shown = datanets.show(self._platform, datanets.Which(act.datanet))
        used: dict[Account, int] = {}
        earned: dict[Account, int] = {}
        best: dict[Account, int] = {}
        for view in answers:
            for part in view.parts:
                if part.share_ppb:
                    used[part.account] = used.get(part.account, 0) + 1
                    earned[part.account] = earned.get(part.account, 0) + part.amount
                    best[part.account] = max(best.get(part.account, 0), part.share_ppb)
        rows = [
            [
                one.name,
                str(one.chunks),
                str(used.get(one.contributor, 0)),
                open_amount(earned.get(one.contributor, 0)),
                _why_paid(best.get(one.contributor, 0)),
            ]
            for one in sorted(shown.contributions, key=lambda one: -earned.get(one.contributor, 0))
        ]
        return table(["contributor", "texts", "answers", "OPEN", "why"], rows)


def _why_paid(best_ppb: int) -> str:
    if not best_ppb:
        return "no answer leaned on these texts above the noise"
    return f"made up to {percent(best_ppb)} of an answer"


def _record(view: ReceiptView) -> CallRecord:
    shares = {part.account: part.share_ppb for part in view.parts if part.share_ppb is not None}
    return CallRecord(
        view.receipt, view.fee, {str(a): s for a, s in shares.items()}, view.nobody_ppb
    )
