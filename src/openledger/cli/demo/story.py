"""The acts of the demonstration, in order, by the operations that any user has.

Only the API key is made otherwise: every telling has the same one (`cli.demo.key`).

Every step finds what an earlier run of it did, so a demonstration that was killed anywhere goes on
where it stopped and ends with the same totals.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from openledger.cli.demo.calls import Caller
from openledger.cli.demo.key import demo_key
from openledger.cli.demo.outcome import (
    Held,
    LeftOut,
    Outcome,
    Stage,
    Trained,
    earnings,
    record,
    trained,
)
from openledger.cli.demo.script import Act, Question
from openledger.cli.output import Output, open_amount, percent, printable
from openledger.core.errors import (
    ConflictError,
    NothingToSettleError,
    SourceUnavailableError,
    VerificationError,
)
from openledger.core.identity import Identity
from openledger.core.types import WEI_PER_OPEN, ReceiptId, Wei
from openledger.flows.model.train.flow import Metrics
from openledger.flows.model.train.plan import Step
from openledger.operations.datanets import Bring, WhichDatanet
from openledger.operations.epochs import EpochView, WhichEpoch
from openledger.operations.models import NewRelease, NewRun, RecipeChoice, WhichRun
from openledger.operations.operation import Nothing
from openledger.operations.receipts import ReceiptView, ShowReceipt
from openledger.operations.wallets import ClaimFor, Deposit, Name
from openledger.storage.jobs import find
from openledger.storage.records.model.runs import TRAIN_JOB
from openledger.storage.records.money import calls
from openledger.web.operations import datanets, epochs, models, receipts, sources, wallets
from openledger.web.server import RunningServer
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform

PAYER = "developer"
DEPOSIT = Wei(2 * WEI_PER_OPEN)
_ONCE = "demo"  # names the deposit, so that a second run finds it
_LINE = "   | "  # before each line of an answer


class Told(msgspec.Struct, frozen=True):
    """An act and the answers that were paid for in it."""

    act: Act
    answers: tuple[ReceiptView, ...]


class Story:
    """One telling of it."""

    def __init__(self, platform: Platform, output: Output, started_s: float) -> None:
        self._platform = platform
        self._output = output
        self._started_s = started_s
        self._stages: dict[str, float] = {}
        self._first_answer_s: float | None = None
        self._earlier = _receipts(platform)
        self._last_line_s = 0.0
        self._missing: list[SourceUnavailableError] = []

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

    def make_all(self, acts: Sequence[Act]) -> list[Act]:
        """Make every act whose data can be had.

        Raises:
            SourceUnavailableError: there is none, for this reason.
        """
        made = [act for act in acts if self.make(act)]
        if not made:
            raise self._missing[0]
        return made

    def make(self, act: Act) -> bool:
        """Contribute, train and publish one act; False when this machine cannot fetch its data."""
        try:
            self._contribute(act)
        except SourceUnavailableError as error:
            self._output.talk(f"   left out: {error}")
            if self._output.as_json:
                self._output.result(LeftOut(act.datanet, error.code, str(error)), "")
            self._missing.append(error)
            return False
        self._train(act)
        with self.stage(f"publish {act.model}", f"Publish {act.model} on chain"):
            made = models.publish(self._platform, NewRelease(act.datanet, act.model))
            self._output.talk(
                f"   {made.name} is release {made.number}; "
                f"{made.terms.policy.data / 100:g} % of every fee is for data"
            )
        return True

    def fund(self) -> str:
        """Give the developer play money, a deposit and an API key."""
        with self.stage("deposit", "A developer deposits and gets an API key"):
            payer = wallets.new(self._platform, Name(PAYER))
            wanted = Deposit(PAYER, DEPOSIT, from_faucet=True, key=_ONCE)
            has = wallets.deposit(self._platform, wanted)
            self._output.talk(
                f"   {open_amount(has.deposited)} OPEN in escrow, one voucher signed, no gas needed"
            )
            return demo_key(self._platform, payer.address)

    def ask(self, server: RunningServer, key: str, act: Act) -> Told:
        """Make the act's calls and wait for their attribution."""
        caller = Caller(server.url, key)
        return Told(act, tuple(self._call(caller, act, question) for question in act.questions))

    def settle(self) -> EpochView:
        """Settle every attributed receipt on chain."""
        with self.stage("settle", "Settle the epoch on chain"):
            try:
                made = epochs.settle(self._platform, Nothing())
            except NothingToSettleError:  # an earlier run settled all of them
                made = epochs.show(self._platform, WhichEpoch())
            self._output.talk(
                f"   epoch {made.number}: {made.size} receipts, "
                f"{open_amount(made.drawn)} OPEN drawn, root {made.root[:16]}…"
            )
            return made

    def claim(self) -> dict[str, Wei]:
        """Everyone claims; what each was ever paid."""
        with self.stage("claim", "Everyone who earned something claims it"):
            wallets.claim(self._platform, ClaimFor())
            found = wallets.balance(self._platform, ClaimFor()).accounts
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

    def end(self, told: Sequence[Told], claims: dict[str, Wei], check: Identity) -> Outcome:
        """A table for each Datanet, and the last object."""
        self._output.talk("\nWho contributed, how often it was used, what it earned:")
        for one in told:
            given = datanets.show(self._platform, WhichDatanet(one.act.datanet)).contributions
            self._output.talk(f"\n{one.act.datanet}:\n\n{earnings(given, one.answers)}")
        first, *others = [self._trained(one.act) for one in told]
        return Outcome(
            seconds=round(time.monotonic() - self._started_s, 2),
            first_answer_seconds=self._first_answer(told),
            stages=self._stages,
            datanet=first.datanet,
            perplexity=first.perplexity,
            held_out_tokens=first.held_out_tokens,
            training_tokens=first.training_tokens,
            contributors=first.contributors,
            others=tuple(others),
            calls=tuple(record(view) for one in told for view in one.answers),
            epoch=epochs.show(self._platform, WhichEpoch()).number,
            claims=claims,
            identity=Held(check.holds),
        )

    def _first_answer(self, told: Sequence[Told]) -> float | None:
        is_replay = told[0].answers[0].receipt in self._earlier
        return None if is_replay else self._first_answer_s

    def _trained(self, act: Act) -> Trained:
        run = models.show_run(self._platform, WhichRun(act.datanet))
        return trained(act.datanet, act.model, msgspec.json.decode(run.metrics, type=Metrics))

    def _contribute(self, act: Act) -> None:
        with self.stage(
            f"contribute {act.datanet}", f"Bring in {act.source}: commit, clean, seal, reveal"
        ):
            wanted = Bring(act.source, act.training_tokens, act.held_out_tokens, act.contributors)
            made = sources.bring(self._platform, wanted)
            chunks = sum(one.chunks for one in made.contributions)
            self._output.talk(
                f"   {len(made.contributions)} contributors, {chunks} chunks, "
                f"Datanet {made.number} on chain, head {made.head[:16]}…"
            )

    def _train(self, act: Act) -> None:
        with self.stage(f"train {act.datanet}", f"Fine-tune an adapter on {act.datanet}"):
            self._platform.models.tell = self._hear
            choice = RecipeChoice(held_out_bps=act.held_out_bps, scored_tunes=act.scored_tunes)
            new = NewRun((act.datanet,), act.datanet, _ONCE + act.datanet, choice=choice)
            run = models.start(self._platform, new)
            self._output.talk(
                f"   run {run.number} begun on chain; its seed came from a later block"
            )
            worker_of(self._platform).drain()
            run = models.show_run(self._platform, WhichRun(run.id))
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
            job = find(transaction, TRAIN_JOB, run_id)
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
            if question.is_streamed:
                self._output.stream(_LINE)
                self._say(question.prompt)
            answer = caller.ask(act.model, question, self._say)
            if question.is_streamed:
                self._output.stream("\n")
            else:
                between = "\n" if question.is_chat else ""
                said = question.prompt + between + answer.text
                for line in said.strip().splitlines()[:14]:
                    self._output.talk(_LINE + printable(line[:90]))
            caller.wait_for_attribution(answer.receipt)
            if self._first_answer_s is None:
                self._first_answer_s = round(time.monotonic() - self._started_s, 2)
            view = receipts.show(self._platform, ShowReceipt(answer.receipt))
            self._show(view)
            return view

    def _say(self, piece: str) -> None:
        """A piece of a streamed answer, at the moment it comes."""
        lines = piece.split("\n")
        self._output.stream(f"\n{_LINE}".join(printable(line) for line in lines))

    def _show(self, view: ReceiptView) -> None:
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


def _receipts(platform: Platform) -> set[ReceiptId]:
    """Of every call that was answered here so far."""
    with platform.database.read() as transaction:
        return {call.id for call in calls.in_order(transaction, platform.gateway.account)}
