"""Begin on chain, draw the seed, train or merge, build the attribution state.

Recipe, ordered manifest and Datanet versions are anchored before the seed exists, so nobody can
choose data or recipe to suit a seed. Every step may be repeated: a killed run goes on from its
last checkpoint and ends with the same adapter.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from openledger.attribution.card.figures import Audit, Committed
from openledger.attribution.card.subsets import check_units
from openledger.attribution.credit.documents import ElsewhereText
from openledger.attribution.influence.gradients import probed_checkpoints
from openledger.attribution.release import Recipe as AttributionRecipe
from openledger.attribution.release import build
from openledger.attribution.state import AttributionState, load_state, state_bytes
from openledger.chain.outbox.rows import op_id
from openledger.core.encoding import decode, digest_of, encode
from openledger.core.errors import ChainUnavailableError, full_disk
from openledger.core.types import BASIS_POINTS, Account, DatanetVersion, Digest, as_bytes
from openledger.flows.model.train.adapters import Subject, attributed, keep
from openledger.flows.model.train.card import measure_card
from openledger.flows.model.train.evidence import keep_evidence
from openledger.flows.model.train.merge import (
    Made,
    MergeMetrics,
    merge_releases,
    seen_material,
)
from openledger.flows.model.train.plan import (
    Material,
    MergePlan,
    Order,
    Plan,
    Step,
    Tell,
    Versions,
    Workshop,
    as_begun,
    attribution_folder,
    check_same,
    committed_card,
    elsewhere,
    forget_unsealed,
    gather,
    unsealed_folder,
    write_manifest,
)
from openledger.flows.model.train.score import score
from openledger.lm.frozen import forget_caches
from openledger.settlement.parts import Parent
from openledger.storage.blobs import write_atomically
from openledger.storage.private.sealed_folder import SealedFolder, seal_folder
from openledger.storage.records.data import accounts, datanets
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.model import openings, runs
from openledger.storage.records.model.openings import Purpose
from openledger.storage.records.model.runs import Run, RunState
from openledger.training.abc_score import AbcScore
from openledger.training.finetune import finetune
from openledger.training.split import Split, split_by_key
from openledger.training.task import FineTuned, Progress, Task, Watch

BUILDING = "building attribution"
SCORING = "writing tunes to judge"
_SEED_TIMEOUT_S = 600.0
_MOST_DRAWS = 4
_NO_SEED = Digest("0" * 64)


class Metrics(msgspec.Struct, frozen=True):
    """What a run measured; printed on the model's card."""

    base_perplexity: float
    perplexity: float
    held_out_tokens: int
    training_tokens: int  # predicted once per epoch
    training_documents: int
    contributors: int
    epochs: int
    steps: int
    stopped_early: bool
    training_root: Digest
    training_size: int
    attribution_bytes: int
    tunes: AbcScore | None = None  # the task score; None where the texts are no tunes
    self_supplied_bps: int = 0  # of the text trained on, how much the builder contributed
    audit: Audit | None = None  # None: attribution was not measured
    merge: MergeMetrics | None = None  # None: it was trained
    parents: tuple[Parent, ...] = ()  # of a merge, whose builders divide its parent part


def start(shop: Workshop, order: Order) -> Run:
    """Anchor the run and draw its seed.

    Raises:
        InvalidInputError: there is nothing to train on.
        ConflictError: this run was started with other choices.
        ChainRejectedError: a Datanet changed at this moment; start again.
        ChainUnavailableError: the chain is down; start again, nothing is lost.
        StorageFullError: the disk is full; start again when there is room.
    """
    # The chain wants them rising, and in whatever order they were named it is one run.
    rising = tuple(sorted(order.datanets, key=lambda one: one.number or 0))
    order = msgspec.structs.replace(order, datanets=rising)
    run = known_run(shop, order.builder, order.key)
    if run is None:
        run = _queued(shop, order, _op(order.builder, order.key))
    else:
        check_same(decode(run.recipe, Plan), order)
    if run.number is None:
        run = _begin(shop, run)
    return run


def train(shop: Workshop, run: Run, tell: Tell) -> Run:
    """Train a begun run to its end.

    Raises:
        ConflictError: the run never began, or is cancelled.
        StorageFullError: the disk is full; call again when there is room.
        StoppedError: the process is asked to end; call again to go on.
    """
    folder = shop.home.run(run.op)
    if run.state is not RunState.TRAINED:
        run = _trained(shop, run, folder, tell)
    # Whoever reads these learns the texts, which rest encrypted elsewhere.
    forget_caches(folder)
    forget_unsealed(folder)
    return run


def _trained(shop: Workshop, run: Run, folder: Path, tell: Tell) -> Run:
    plan = decode(run.recipe, Plan)
    with shop.database.transaction() as transaction:
        run = runs.advance(transaction, run.id, RunState.TRAINING, shop.clock())
        wanted = tuple(datanets.get(transaction, one) for one in plan.datanets)
    material = as_begun(folder, gather(shop, wanted), run.manifest_root)
    seed = as_bytes(run.seed or Digest(""))
    hear = _heard(shop, run, tell)
    if isinstance(plan.merge, MergePlan):
        made = merge_releases(shop, plan, material, seed, folder, hear)
    else:
        made = _finetuned(shop, plan, material, seed, folder, hear)
    tuned, split = made.tuned, made.split
    recipe = _kept(shop, run, made)
    digest = recipe.adapter
    others = elsewhere(shop, material, split, plan)
    subject = Subject(folder, plan, split, seed, digest, made.knew)
    state = _attribution(shop, run, subject, others, recipe, hear)
    _keep_card(committed_card(folder), state)
    keep_evidence(shop, run, material, state)
    written = _score(shop, plan, split, digest, hear)
    metrics = _metrics(plan, split, tuned, state, attribution_folder(folder))
    by_builder = _part_of(run.builder, split)
    scored = msgspec.json.encode(
        msgspec.structs.replace(
            metrics, tunes=written, self_supplied_bps=by_builder, merge=made.merge
        )
    )
    with shop.database.transaction() as transaction:
        trained = runs.Progress(tuned.steps, tuned.steps_planned, 0, None)
        runs.report(transaction, run.id, trained, shop.clock())
        return runs.finish(transaction, run.id, digest, scored, shop.clock())


def _finetuned(
    shop: Workshop, plan: Plan, material: Material, seed: bytes, folder: Path, hear: Tell
) -> Made:
    split = split_by_key(material.examples, seed, plan.held_out_bps)
    task = Task(plan.recipe, seed, split.training, split.held_out)
    watch = Watch(progress=lambda seen: hear(_step(seen)))
    return Made(finetune(shop.base(plan.recipe.precision), task, folder, watch), split)


def _kept(shop: Workshop, run: Run, made: Made) -> AttributionRecipe:
    """Both adapters on disk, and what their attribution state is built from."""
    name = shop.base(decode(run.recipe, Plan).recipe.precision).name
    digest, early = keep(shop, made.tuned.adapter, name), keep(shop, made.tuned.early, name)
    return AttributionRecipe(digest, early, run.seed or Digest(""), made.parents)


def known_run(shop: Workshop, builder: LocalAccount, key: str) -> Run | None:
    """The run that this builder has started under this key."""
    op = _op(builder, key)
    with shop.database.read() as transaction:
        return next((run for run in runs.list_all(transaction) if run.op == op), None)


def _op(builder: LocalAccount, key: str) -> Digest:
    return op_id("run", builder.address, key)


def _queued(shop: Workshop, order: Order, op: Digest) -> Run:
    material = gather(shop, order.datanets)
    if order.merge is not None:
        material = seen_material(shop, order.merge, material)
    if order.card is not None:
        # Sooner than at the end of the training; content clusters are known only then.
        check_units(len({one.document for one in material.examples}))
    write_manifest(shop.home.run(op), material)
    plan = Plan(
        recipe=order.recipe,
        held_out_bps=order.held_out_bps,
        scored_tunes=order.scored_tunes,
        base=shop.base_digest,
        datanets=tuple(one.id for one in order.datanets),
        card=order.card or msgspec.UNSET,
        merge=order.merge or msgspec.UNSET,
    )
    new = runs.NewRun(
        op=op,
        builder=order.builder.address,
        name=order.name,
        recipe=encode(plan),
        versions=encode(Versions(tuple(_version(shop, one) for one in order.datanets))),
        manifest_root=material.root,
        manifest_size=len(material.rows),
    )
    with shop.database.transaction() as transaction:
        return runs.create(transaction, new, shop.clock())


def _version(shop: Workshop, datanet: datanets.Datanet) -> DatanetVersion:
    number = datanet.number or 0
    found = shop.acts.contracts.call("Datanets", "version_of", number)
    assert isinstance(found, tuple)
    return DatanetVersion(number, int(str(found[0])), Digest(str(found[1])))


def _begin(shop: Workshop, run: Run) -> Run:
    contracts = shop.acts.contracts
    plan = decode(run.recipe, Plan)
    versions = decode(run.versions, Versions).datanets
    with shop.database.read() as transaction:
        builder = accounts.by_address(transaction, run.builder)
    assert builder is not None, "a run's builder is an account of this home"
    write = contracts.write(
        "Models",
        "begin",
        run.op,
        digest_of(plan),
        run.manifest_root,
        run.manifest_size,
        plan.method,
        versions,
        acting=builder.label,
    )
    shop.acts.perform({op_id("begin", run.op): write})
    number = contracts.read(int, "Models", "run_of", run.builder, run.op)
    seed = _drawn_seed(shop, run, number)
    with shop.database.transaction() as transaction:
        return runs.begin(transaction, run.id, number, seed, shop.clock())


class _OnChain(msgspec.Struct, frozen=True):
    seed_block: int
    retargets: int
    seed: Digest


def _drawn_seed(shop: Workshop, run: Run, number: int) -> Digest:
    """The seed, from a block that did not exist when the run began.

    Whoever comes later than 256 blocks after that block finds its hash gone; the contract then
    aims at a new block, and the draw is made again.
    """
    contracts = shop.acts.contracts
    for _ in range(_MOST_DRAWS):
        found = contracts.read(_OnChain, "Models", "runs", number)
        if found.seed != _NO_SEED:
            return found.seed
        contracts.client.reach(found.seed_block + 1, _SEED_TIMEOUT_S)
        draw = contracts.write("Models", "draw_seed", number)
        shop.acts.perform({op_id("draw", run.op, found.retargets): draw})
    raise ChainUnavailableError(f"run {number} missed its seed block too often; start it again")


def _heard(shop: Workshop, run: Run, tell: Tell) -> Tell:
    """Store each step before it is told, so that whoever asks the home sees it too.

    Between two steps is also where the run may be stopped.
    """

    def hear(step: Step) -> None:
        row = runs.Progress(
            step=step.done,
            steps=step.total,
            seconds_left=None if step.seconds_left is None else round(step.seconds_left),
            metrics=msgspec.json.encode(step),
        )
        with shop.database.transaction() as transaction:
            runs.report(transaction, run.id, row, shop.clock())
        tell(step)
        shop.check_stop()

    return hear


def _step(seen: Progress) -> Step:
    return Step(
        stage=seen.stage.value,
        done=seen.done,
        total=seen.total,
        loss=seen.loss,
        held_out_loss=seen.held_out_loss,
        seconds_left=seen.seconds_left,
    )


def _attribution(
    shop: Workshop,
    run: Run,
    subject: Subject,
    others: Sequence[ElsewhereText],
    recipe: AttributionRecipe,
    tell: Tell,
) -> AttributionState:
    folder = attribution_folder(shop.home.run(run.op))
    if folder.exists():
        with shop.database.transaction() as transaction:
            opening = openings.Opening(run.id, run.builder, Purpose.TRAINING, "", shop.clock())
            openings.note(transaction, opening)
        state = load_state(folder, read=SealedFolder(shop.sealer).read)
        if state.manifest.commitment.adapter == recipe.adapter:
            return state
    base = shop.base(subject.plan.recipe.precision)
    models = probed_checkpoints(base, shop.home.adapter, recipe.early, recipe.adapter)
    # In the clear only beside the caches of a run that still trains, which tell as much.
    plain = unsealed_folder(shop.home.run(run.op))
    state = build(
        plain,
        models,
        attributed(base, subject),
        recipe,
        lambda done, total: tell(Step(BUILDING, done, total)),
        others,
    )
    state = measure_card(shop, subject, plain, state, tell)
    seal_folder(shop.sealer, plain, folder)
    return state


def _score(
    shop: Workshop, plan: Plan, split: Split, adapter: Digest, tell: Tell
) -> AbcScore | None:
    tell(Step(SCORING, 0, plan.scored_tunes))
    tokenizer = shop.base(plan.recipe.precision).tokenizer
    engine = shop.engine(adapter)
    return score(engine, tokenizer, adapter, split, plan.scored_tunes, shop.check_stop)


def _metrics(
    plan: Plan, split: Split, tuned: FineTuned, state: AttributionState, folder: Path
) -> Metrics:
    return Metrics(
        base_perplexity=tuned.base.perplexity,
        perplexity=tuned.tuned.perplexity,
        held_out_tokens=tuned.tuned.tokens,
        training_tokens=tuned.tokens // max(1, plan.recipe.epochs),
        training_documents=len({one.document for one in split.training}),
        contributors=len({one.account for one in split.training}),
        epochs=plan.recipe.epochs if tuned.steps_planned else 0,  # a merge trains nothing
        steps=tuned.steps,
        stopped_early=tuned.stopped_early,
        training_root=state.training_root,
        training_size=state.training_size,
        attribution_bytes=state_bytes(folder),
        audit=state.manifest.audit or None,
        parents=tuple(
            Parent(one.release, one.account) for one in state.manifest.commitment.parents or ()
        ),
    )


def _keep_card(path: Path, state: AttributionState) -> None:
    committed = Committed(
        encode(state.manifest.commitment).decode(), state.manifest.tree().prove(0)
    )
    with full_disk():
        write_atomically(path, encode(committed))


def _part_of(builder: Account, split: Split) -> int:
    """In basis points of the characters trained on."""
    own = sum(len(one.text) for one in split.training if one.account == builder)
    return BASIS_POINTS * own // sum(len(one.text) for one in split.training)
