"""The model rooms of a home: base model, training, serving, attribution. Imports torch."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from openledger.attribution.attribute import Attributor
from openledger.attribution.card.panel import open_attributor
from openledger.attribution.mix import Member as ReadyMember
from openledger.attribution.mix import Mix, open_member
from openledger.attribution.state import AttributionState, load_state
from openledger.chain.index.rows import StoredEvent
from openledger.core.encoding import digest_of
from openledger.core.errors import (
    ChainUnavailableError,
    OpenLedgerError,
    StoppedError,
)
from openledger.core.ids import parse_receipt_id
from openledger.core.types import Account, Digest, Precision
from openledger.flows.model.train.flow import train
from openledger.flows.model.train.plan import Tell, Workshop, attribution_folder
from openledger.flows.money.attribute import Attribute, Member, Scorer
from openledger.flows.money.evidence import ShowEvidence
from openledger.flows.money.infer.answer import refund_orphans
from openledger.flows.money.infer.request import (
    Config,
    Desk,
)
from openledger.lm.base import (
    DTYPES,
    BaseManifest,
    BaseModel,
    load_base,
    read_manifest,
    use_threads,
)
from openledger.lm.checkpoint import load_adapter
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import AdapterRef, Embedder, Engine
from openledger.settlement.receipt import NO_TRAINING_ROOT
from openledger.storage import jobs
from openledger.storage.database import Transaction
from openledger.storage.jobs import ATTRIBUTE_JOB, Job
from openledger.storage.private.sealed_folder import SealedFolder
from openledger.storage.records.model import openings, releases, runs
from openledger.storage.records.model.openings import Purpose
from openledger.storage.records.model.releases import Release
from openledger.storage.records.model.runs import TRAIN_JOB, RunState
from openledger.storage.records.money import balances, calls, idempotency
from openledger.training.recipe import Recipe, best_precision
from openledger.wiring.bases import TINY, base_folder
from openledger.wiring.engine import open_engine
from openledger.wiring.platform import now_us
from openledger.wiring.private import open_private
from openledger.worker import Handler

if TYPE_CHECKING:
    from openledger.wiring.platform import Platform

log = structlog.get_logger()

REFRESH_JOB = "refresh escrow"
KEEP_PRIVATE_US = 14 * 86_400 * 1_000_000  # the dispute window, as long as a dispute may freeze
_CHORES_EVERY_US = 1_000_000
_ERASE_EVERY_US = 3_600 * 1_000_000
_MOVES = ("Deposited", "ExitRequested", "Exited")
_TINY_RECIPE = Recipe(last_layers=2, epochs=16, learning_rate_micro=20_000)
_MOST_SCORERS = 4  # mixes kept ready for attribution


class Models:
    """Opened on demand; one per home."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform
        self._bases: dict[Precision, BaseModel] = {}
        self._scorers: dict[tuple[bool, tuple[tuple[str, int], ...]], Mix] = {}
        threads = platform.settings.models.threads or os.cpu_count() or 1
        use_threads(threads)
        self._threads = threads
        self._next_chores = self._next_erasure = 0
        self.tell: Tell = lambda _: None  # who hears of a run's steps
        self.is_stopping: Callable[[], bool] = lambda: False  # whether a run is to end here
        self.make_way: Callable[[], None] = lambda: None  # called between the steps of a run

    @cached_property
    def base_folder(self) -> Path:
        """The base model's folder, fetched and converted when it is not there yet.

        Raises:
            NotFoundError: the settings name a base model that this home does not have.
            UnavailableError: it is not cached and cannot be fetched.
        """
        platform = self._platform
        return base_folder(platform.home, platform.cache, platform.settings.models.base)

    @cached_property
    def base_digest(self) -> Digest:
        """What the base model is."""
        return digest_of(read_manifest(self.base_folder))

    def base(self, precision: Precision) -> BaseModel:
        """The base for training and attribution, loaded once per precision."""
        if precision not in self._bases:
            self._bases[precision] = load_base(
                self.base_folder, self.base_digest, DTYPES[precision]
            )
        return self._bases[precision]

    @cached_property
    def engine(self) -> Engine:
        """The inference engine, with every served release loaded.

        Raises:
            UnavailableError: the vLLM server of the settings does not answer.
            ConflictError: it serves another base model.
        """
        # A copy of its own: training and attribution change the modules of theirs.
        base = load_base(self.base_folder, self.base_digest, DTYPES[self.precision])
        platform = self._platform
        engine = open_engine(platform.settings, platform.home, base, self._threads)
        with self._platform.database.read() as transaction:
            served = releases.list_served(transaction)
        for release in served:
            try:
                engine.load(self._ref(release))
            except OpenLedgerError:
                # One bad adapter must not keep the others from being served.
                log.exception("release not served", release=release.full_name)
        return engine

    @property
    def embedder(self) -> Embedder | None:
        """The engine, if it makes vectors of texts."""
        return self.engine if isinstance(self.engine, EmbeddedEngine) else None

    def serve(self, release: Release) -> None:
        """Make a release callable."""
        self.engine.load(self._ref(release))

    @cached_property
    def desk(self) -> Desk:
        """What a paid call needs; holds of calls that died are given back first."""
        refund_orphans(self._platform.database, now_us())
        return Desk(
            database=self._platform.database,
            engine=self.engine,
            tokenizer=self.base(self.precision).tokenizer,
            gateway=self._platform.gateway,
            sealer=self._platform.sealer,
            clock=now_us,
            random=secrets.token_bytes,
            config=Config(),
        )

    @cached_property
    def attribute(self) -> Attribute:
        """Makes attribution statements."""
        return Attribute(
            database=self._platform.database,
            gateway=self._platform.gateway,
            sealer=self._platform.sealer,
            scorer_of=self.scorer,
            precision=self.precision,
            token=self._platform.acts.contracts.deployment.open_token,
            commons=self._platform.acts.contracts.deployment.payouts,
            platform=self._platform.treasury,
            clock=now_us,
        )

    def scorer(self, members: tuple[Member, ...], *, is_audited: bool = False) -> Scorer:
        """The releases of one mix, ready to score its answers."""
        key = (is_audited, tuple((one.release.id, one.weight_ppb) for one in members))
        if key not in self._scorers:
            while len(self._scorers) >= _MOST_SCORERS:
                self._scorers.pop(next(iter(self._scorers)))
            ready = [self._ready(one, is_audited=is_audited) for one in members]
            self._scorers[key] = Mix(self.base(self.precision), ready)
        return self._scorers[key]

    def _ready(self, member: Member, *, is_audited: bool) -> ReadyMember:
        release, base = member.release, self.base(self.precision)
        folder_of, weight = self._platform.home.adapter, member.weight_ppb
        if release.training_root == NO_TRAINING_ROOT:
            adapter = load_adapter(folder_of(release.adapter), base, release.adapter)
            return ReadyMember(adapter, weight, None)
        state = self.open_state(release, Purpose.SCORING, self._platform.gateway.account)
        return open_member(state, base, release.adapter, weight, folder_of, is_audited=is_audited)

    @cached_property
    def show_evidence(self) -> ShowEvidence:
        """Shows documents and passages to the parties of a call."""
        return ShowEvidence(
            database=self._platform.database,
            vault=self._platform.vault,
            open_private=lambda call: open_private(self._platform, call),
            tokenizer=self.base(self.precision).tokenizer,
            # One of its own: the worker's may be at work in another thread.
            model_of=self._attributor,
            home=self._platform.home.root,
        )

    def _attributor(self, release: Release) -> Attributor:
        state = self.open_state(release, Purpose.EVIDENCE, self._platform.gateway.account)
        base, folder_of = self.base(self.precision), self._platform.home.adapter
        return open_attributor(state, base, release.adapter, folder_of, is_audited=False)

    def open_state(
        self, release: Release, purpose: Purpose, account: Account, subject: str = ""
    ) -> AttributionState:
        """Decrypt the attribution state of a release; who asks, and what for, is noted before.

        Raises:
            NotFoundError: there is none.
            VerificationError: it was altered.
        """
        opening = openings.Opening(release.run, account, purpose, subject, now_us())
        with self._platform.database.transaction() as transaction:
            openings.note(transaction, opening)
        folder = self.state_folder(release)
        return load_state(folder, release.training_root, self.sealed.read)

    def state_folder(self, release: Release) -> Path:
        """Where the sealed attribution state of a release lies."""
        return attribution_folder(self._platform.home.root / release.folder)

    @property
    def sealed(self) -> SealedFolder:
        """Reads sealed files of this home; use `open_state` where a state is meant."""
        return SealedFolder(self._platform.sealer)

    @property
    def workshop(self) -> Workshop:
        """What training needs."""
        return Workshop(
            database=self._platform.database,
            vault=self._platform.vault,
            sealer=self._platform.sealer,
            acts=self._platform.acts,
            home=self._platform.home,
            base=self.base,
            base_digest=self.base_digest,
            engine=self._engine_with,
            clock=now_us,
            check_stop=self._check_stop,
        )

    @property
    def base_manifest(self) -> BaseManifest:
        """What the base model is called, and whose it is."""
        return read_manifest(self.base_folder)

    @property
    def default_recipe(self) -> Recipe:
        """The recipe that suits this home's base model."""
        recipe = _TINY_RECIPE if self._is_tiny else Recipe()
        return msgspec.structs.replace(recipe, precision=self.precision)

    @property
    def precision(self) -> Precision:
        """In which serving, training and attribution compute.

        For each new shape bfloat16 has a kernel built first, which costs the tiny model more than
        all its arithmetic.
        """
        return "float32" if self._is_tiny else best_precision()

    @property
    def _is_tiny(self) -> bool:
        return self._platform.settings.models.base == TINY

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What the worker does, by kind of job."""
        return {
            ATTRIBUTE_JOB: self._attribute,
            TRAIN_JOB: _each(self._train),
            REFRESH_JOB: _each(self._refresh),
        }

    def chores(self) -> None:
        """What the worker does between jobs: send, look for news, forget what is old."""
        platform, now = self._platform, now_us()
        if now < self._next_chores:
            return
        self._next_chores = now + _CHORES_EVERY_US
        platform.acts.outbox.pump()
        try:
            platform.indexer.poll()
        except ChainUnavailableError as error:
            log.warning("chain is down", why=str(error))
        platform.indexer.consume("escrow", _queue_refresh)
        if now >= self._next_erasure:
            self._next_erasure = now + _ERASE_EVERY_US
            with platform.database.transaction() as transaction:
                calls.erase_private(transaction, now - KEEP_PRIVATE_US)
                idempotency.erase(transaction, now - KEEP_PRIVATE_US)
        with platform.database.transaction() as transaction:
            balances.release_expired(transaction, now)

    def close(self) -> None:
        """Stop what runs."""
        if "engine" in vars(self):
            self.engine.close()

    def _engine_with(self, adapter: Digest) -> Engine:
        self.engine.load(AdapterRef(adapter, self._platform.home.adapter(adapter)))
        return self.engine

    def _attribute(self, taken: Sequence[Job]) -> None:
        self.attribute.run([parse_receipt_id(job.key) for job in taken])

    def _refresh(self, job: Job) -> None:
        self._platform.fund.refresh(Account(job.payload.decode()))

    def _train(self, job: Job) -> None:
        with self._platform.database.read() as transaction:
            run = runs.get(transaction, job.key)
        try:
            train(self.workshop, run, self.tell)
        except StoppedError:
            raise  # no failure: it goes on at the next start
        except Exception as error:
            # A later attempt takes it up again; until then people see why it stopped.
            self._note_failure(run.id, str(error) or type(error).__name__)
            raise

    def _check_stop(self) -> None:
        """Between two steps of a run: end it, or let what is quick and due go first."""
        if self.is_stopping():
            raise StoppedError("the process is asked to end; the run goes on at its next start")
        self.make_way()

    def _note_failure(self, run_id: str, reason: str) -> None:
        try:
            with self._platform.database.transaction() as transaction:
                runs.advance(transaction, run_id, RunState.FAILED, now_us(), error=reason)
        except OpenLedgerError as error:
            # On a full disk there may be no room for this either; the reason itself goes on.
            log.warning("failure not noted", run=run_id, why=reason, error=str(error))

    def _ref(self, release: Release) -> AdapterRef:
        return AdapterRef(release.adapter, self._platform.home.adapter(release.adapter))


def _each(run: Callable[[Job], None]) -> Handler:
    """A handler that takes jobs one by one."""

    def handle(taken: Sequence[Job]) -> None:
        for job in taken:
            run(job)

    return handle


def _queue_refresh(transaction: Transaction, event: StoredEvent) -> None:
    """A payer's money in Escrow moved, perhaps by his own hand: look before serving on it."""
    if event.event in _MOVES:
        payer = str(event.fields()["payer"])
        key = f"{payer}/{event.block_hash}/{event.log_index}"
        jobs.enqueue(transaction, jobs.NewJob(REFRESH_JOB, key, payer.encode()), now_us())
