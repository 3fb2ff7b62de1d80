"""Training runs and the releases that come of them."""

from typing import TYPE_CHECKING

import msgspec

from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.core.ids import ReleaseName, did_you_mean, parse_release_name
from openledger.operations.models import (
    DEPRECATE,
    LIST,
    LIST_RUNS,
    PUBLISH,
    SHOW,
    SHOW_RUN,
    START,
    NewRelease,
    NewRun,
    RecipeChoice,
    ReleaseList,
    ReleaseView,
    RunList,
    RunView,
    WhichRelease,
    WhichRun,
)
from openledger.operations.operation import Nothing
from openledger.settlement.price import MERGED_POLICY, SplitPolicy, Terms
from openledger.storage import jobs
from openledger.storage.database import Transaction
from openledger.storage.records.data import accounts, contributions, datanets, texts
from openledger.storage.records.model import releases, runs
from openledger.storage.records.model.releases import Release
from openledger.storage.records.model.runs import TRAIN_JOB, Run, RunState
from openledger.web.operations.implementation import Implementation
from openledger.web.operations.wallets import find
from openledger.wiring.platform import Platform, now_us

if TYPE_CHECKING:
    from openledger.flows.model.train.plan import CardPlan, Plan
    from openledger.training.recipe import Recipe


def start(platform: Platform, new: NewRun) -> RunView:
    """Begin a run on chain and queue its training."""
    from openledger.flows.model.train.flow import start as begin
    from openledger.flows.model.train.plan import Order

    with platform.database.read() as transaction:
        wanted = tuple(datanets.by_slug(transaction, name) for name in new.datanets)
    if not wanted:
        raise InvalidInputError("name at least one Datanet to train on")
    order = Order(
        key=new.key,
        name=new.name,
        builder=find(platform, new.builder),
        datanets=wanted,
        recipe=_recipe(platform, new.choice),
        held_out_bps=new.choice.held_out_bps,
        scored_tunes=new.choice.scored_tunes,
        card=_card_plan(new.choice),
    )
    return queue(platform, begin(platform.models.workshop, order))


def queue(platform: Platform, run: Run) -> RunView:
    """Have the worker train or merge a run that has begun."""
    with platform.database.transaction() as transaction:
        new_job = jobs.NewJob(TRAIN_JOB, run.id, run.id.encode())
        job = jobs.enqueue(transaction, new_job, now_us())
        if job.state is jobs.JobState.DEAD:
            jobs.revive(transaction, job.id, now_us())
        return _run_view(transaction, run)


def show_run(platform: Platform, which: WhichRun) -> RunView:
    """One run, by name or id."""
    run = _run(platform, which.name)
    with platform.database.read() as transaction:
        return _run_view(transaction, run)


def list_runs(platform: Platform, _: Nothing) -> RunList:
    """All runs."""
    with platform.database.read() as transaction:
        return RunList(tuple(_run_view(transaction, run) for run in runs.list_all(transaction)))


def publish(platform: Platform, new: NewRelease) -> ReleaseView:
    """Release a trained run, and serve it."""
    from openledger.core.encoding import decode
    from openledger.flows.model.publish import Card, Offer
    from openledger.flows.model.train.flow import Metrics
    from openledger.flows.model.train.plan import Plan

    run = _run(platform, new.run)
    name = parse_release_name(new.name)
    if run.metrics is None or run.adapter is None:
        raise InvalidInputError(f"the run {run.name} is {run.state.value}; train it first")
    metrics = msgspec.json.decode(run.metrics, type=Metrics)
    models = platform.models
    plan = decode(run.recipe, Plan)
    members = _merged_terms(platform, plan)
    offer = Offer(
        run=run,
        name=ReleaseName(name.owner, name.name, None),
        base=plan.base,
        training_root=metrics.training_root,
        training_size=metrics.training_size,
        card=Card(
            base=models.base_manifest.name,
            licences=_licences(platform, plan),
            metrics=msgspec.Raw(run.metrics),
            is_audited=metrics.audit is not None and metrics.audit.calibration is not None,
        ),
        price=new.price,
        policy=new.policy or (MERGED_POLICY if members else SplitPolicy()),
        parents=metrics.parents,
        members=members,
    )
    release = platform.publish.run(offer)
    models.serve(release)
    return _view_of(platform, release)


def show(platform: Platform, which: WhichRelease) -> ReleaseView:
    """One release."""
    with platform.database.read() as transaction:
        release = releases.by_name(transaction, parse_release_name(which.name))
    return _view_of(platform, release)


def list_all(platform: Platform, _: Nothing) -> ReleaseList:
    """All releases."""
    with platform.database.read() as transaction:
        known = releases.list_all(transaction)
        return ReleaseList(tuple(_view(transaction, one) for one in known))


def deprecate(platform: Platform, which: WhichRelease) -> ReleaseView:
    """Take a release from sale; its receipts stay valid."""
    with platform.database.read() as transaction:
        release = releases.by_name(transaction, parse_release_name(which.name))
        owner = accounts.by_address(transaction, release.builder)
    if owner is None:
        raise NotFoundError(f"the builder of {release.full_name} is not an account of this home")
    return _view_of(platform, platform.publish.deprecate(release, owner))


def _merged_terms(platform: Platform, plan: "Plan") -> tuple[Terms, ...]:
    """The terms in force of what a run was merged from; none where it was trained."""
    found = []
    with platform.database.read() as transaction:
        for member in plan.merge.members if plan.merge else ():
            release = releases.by_number(transaction, member.release)
            assert release is not None, "what was merged is a release of this home"
            found.append(_terms(transaction, release))
    return tuple(found)


def _run(platform: Platform, name: str) -> Run:
    with platform.database.read() as transaction:
        known = runs.list_all(transaction)
    found = next((run for run in known if name in (run.id, run.name)), None)
    if found is None:
        names = [run.name for run in known]
        raise NotFoundError(f"there is no run {name!r}{did_you_mean(name, names)}")
    return found


def _card_plan(choice: RecipeChoice) -> "CardPlan | None":
    from openledger.attribution.card.subsets import check_count
    from openledger.flows.model.train.plan import CardPlan

    check_count(choice.card_adapters)
    if choice.card_adapters:
        return CardPlan(choice.card_adapters, choice.leaves_out)
    if choice.leaves_out:
        raise InvalidInputError(
            "adapters without one contributor belong to half-data adapters: "
            "say how many of those, 16 for example"
        )
    return None


def _recipe(platform: Platform, choice: RecipeChoice) -> "Recipe":
    chosen = {
        name: value
        for name in ("epochs", "rank", "last_layers", "learning_rate_micro")
        if (value := getattr(choice, name)) is not None
    }
    return msgspec.structs.replace(platform.models.default_recipe, **chosen)


def _licences(platform: Platform, plan: "Plan") -> tuple[str, ...]:
    with platform.database.read() as transaction:
        found = {
            document.licence
            for datanet in plan.datanets
            for row in contributions.of_datanet(transaction, datanet)
            for document in texts.documents_of(transaction, row.id)
        }
    return tuple(sorted(found))


def _run_view(transaction: Transaction, run: Run) -> RunView:
    return RunView(
        id=run.id,
        name=run.name,
        state=run.state.value,
        stage=_stage(run),
        number=run.number,
        seed=run.seed,
        step=run.step,
        steps=run.steps,
        seconds_left=run.seconds_left,
        adapter=run.adapter,
        error=run.error,
        metrics=msgspec.Raw(run.metrics or b"{}"),
        retry_at=_retry_at(transaction, run),
    )


def _retry_at(transaction: Transaction, run: Run) -> int | None:
    if run.state is not RunState.FAILED:
        return None
    job = jobs.find(transaction, TRAIN_JOB, run.id)
    return job.run_at if job is not None and job.state is jobs.JobState.QUEUED else None


def _stage(run: Run) -> str | None:
    if run.state is not RunState.TRAINING or run.metrics is None:
        return None
    return msgspec.json.decode(run.metrics, type=_Stage).stage


class _Stage(msgspec.Struct, frozen=True):
    stage: str | None = None


def _view_of(platform: Platform, release: Release) -> ReleaseView:
    with platform.database.read() as transaction:
        return _view(transaction, release)


def _view(transaction: Transaction, release: Release) -> ReleaseView:
    return ReleaseView(
        name=release.full_name,
        number=release.number,
        builder=release.builder,
        base=release.base,
        adapter=release.adapter,
        training_root=release.training_root,
        terms=_terms(transaction, release),
        is_deprecated=release.deprecated_at is not None,
        card=msgspec.Raw(release.card),
    )


def _terms(transaction: Transaction, release: Release) -> Terms:
    row = releases.terms_of(transaction, release.id, release.terms_version)
    return msgspec.json.decode(row.terms, type=Terms, strict=False)


IMPLEMENTED = (
    Implementation(START, start),
    Implementation(SHOW_RUN, show_run),
    Implementation(LIST_RUNS, list_runs),
    Implementation(PUBLISH, publish),
    Implementation(SHOW, show),
    Implementation(LIST, list_all),
    Implementation(DEPRECATE, deprecate),
)
