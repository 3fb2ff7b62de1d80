"""A run that merges releases instead of training.

Its data are all that its members were trained on, its attribution state is built from their texts,
at its own parameters, and who built them divides the parent part of its fees. It is measured on
texts that none of them was trained on; where there are none, on those that some was not.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from openledger.attribution.card.figures import Committed
from openledger.attribution.state import Commitment
from openledger.core.encoding import decode
from openledger.core.errors import ConflictError, InvalidInputError, NotFoundError
from openledger.core.types import PARTS_PER_BILLION, as_bytes
from openledger.flows.model.train.plan import (
    MANIFEST,
    Material,
    MergedRelease,
    MergePlan,
    Plan,
    Step,
    Tell,
    Workshop,
    committed_card,
)
from openledger.lm.checkpoint import load_adapter
from openledger.lm.lora import TARGETS
from openledger.settlement.parts import Ancestor, Parent, inherited, stored_parents
from openledger.settlement.price import Terms
from openledger.storage.records.model import releases, runs
from openledger.storage.records.model.releases import Release
from openledger.storage.records.model.runs import Run
from openledger.training.merging.outcome import Member, Outcome, merge_members
from openledger.training.merging.ways import Merging, Way
from openledger.training.recipe import Recipe
from openledger.training.rows import Example
from openledger.training.split import Split, split_by_key
from openledger.training.task import FineTuned, Task, TrainingManifest

MERGING = "merging"
_MICRO = 1_000_000


class MergedFrom(msgspec.Struct, frozen=True):
    """One release that went into a merge."""

    name: str  # owner/name@version
    release: int
    weight_ppb: int
    added_micronats: int  # a token, on the texts that the merge was measured on


class MergeMetrics(msgspec.Struct, frozen=True):
    """What a merge measured; printed on the model's card."""

    way: str
    density_bps: int
    rank: int
    lost_ppm: int  # of what the members add to the base, by norm, by the cut to the rank
    members: tuple[MergedFrom, ...]
    unseen: bool  # measured on texts that no member was trained on; else on those that some was not


class MergeWish(msgspec.Struct, frozen=True):
    """What an order of a merge says besides names."""

    merge: MergePlan
    recipe: Recipe
    datanets: tuple[str, ...]  # row ids, of all that its members were trained on


class Made(msgspec.Struct, frozen=True):
    """An adapter and its texts, trained or merged."""

    tuned: FineTuned
    split: Split
    merge: MergeMetrics | None = None
    parents: tuple[Parent, ...] = ()


def plan_merge(
    shop: Workshop, wanted: Sequence[tuple[Release, int]], merging: Merging, recipe: Recipe
) -> MergeWish:
    """What a run must be to merge some releases.

    Args:
        shop: where they lie.
        wanted: releases with their weights in ppb, in rising order of their numbers.
        merging: how.
        recipe: rank and precision; its layers, targets and row length become those of all members.

    Raises:
        InvalidInputError: a release was not trained here, or the way does not take the weights.
        ConflictError: a release is of another base model than this home's.
    """
    merging.check_weights([weight / PARTS_PER_BILLION for _, weight in wanted])
    plans, members = [], []
    with shop.database.transaction() as transaction:
        for release, weight in wanted:
            run = runs.get(transaction, release.run)
            early = _commitment(shop, release, run).early
            plans.append(decode(run.recipe, Plan))
            members.append(MergedRelease(release.number or 0, release.adapter, early, weight))
    for (release, _), plan in zip(wanted, plans, strict=True):
        if plan.base != shop.base_digest:
            raise ConflictError(f"{release.full_name} is made for another base model than this")
    recipes = [plan.recipe for plan in plans]
    # A sum of adapters has no more directions than they have together.
    most = sum(one.rank for one in recipes) if merging.way is Way.SVD else recipe.rank
    rank = min(recipe.rank, most)
    targets = {target for one in recipes for target in one.target_modules}
    shape = msgspec.structs.replace(
        recipe,
        rank=rank,
        alpha=rank,
        last_layers=max(one.last_layers for one in recipes),
        target_modules=tuple(target for target in TARGETS if target in targets),
        max_length=max(one.max_length for one in recipes),
    )
    datanets = tuple(dict.fromkeys(one for plan in plans for one in plan.datanets))
    return MergeWish(MergePlan(merging, tuple(members)), shape, datanets)


def seen_material(shop: Workshop, merge: MergePlan, material: Material) -> Material:
    """What of the Datanets the members of a merge were trained on or held out.

    Raises:
        ConflictError: a contribution of theirs was withdrawn since.
    """
    pairs = dict(zip(material.rows, material.examples, strict=True))
    seen = set()
    for release, run in _members(shop, merge):
        for row in _manifest(shop, run).rows:
            if row not in pairs:
                raise ConflictError(
                    f"contribution {row.contribution}, which {release.full_name} was trained on, "
                    "was withdrawn; merge a release without it"
                )
            seen.add(row)
    rows = tuple(row for row in material.rows if row in seen)
    return Material(rows, tuple(pairs[row] for row in rows))


def merge_releases(
    shop: Workshop, plan: Plan, material: Material, seed: bytes, folder: Path, tell: Tell
) -> Made:
    """Merge the releases of a plan, and measure what came of it.

    Raises:
        NotFoundError: the adapter of a member is gone.
        StoppedError: the process is asked to end; call again to go on.
    """
    assert isinstance(plan.merge, MergePlan)
    merge = plan.merge
    members = _members(shop, merge)
    trained = [_trained_on(shop, run, material) for _, run in members]
    by_any, by_all = set().union(*trained), set(trained[0]).intersection(*trained)
    unseen = tuple(one for one in material.examples if one not in by_any)
    split = Split(tuple(one for one in material.examples if one in by_any), unseen)
    measured = unseen or tuple(one for one in material.examples if one not in by_all)
    base = shop.base(plan.recipe.precision)
    outcome = merge_members(
        base,
        [
            Member(
                load_adapter(shop.home.adapter(one.adapter), base, one.adapter),
                load_adapter(shop.home.adapter(one.early), base, one.early),
                one.weight_ppb / PARTS_PER_BILLION,
            )
            for one in merge.members
        ],
        merge.merging,
        Task(plan.recipe, seed, split.training, measured),
        folder,
        lambda done, total: tell(Step(MERGING, done, total)),
    )
    added = _added(outcome)
    metrics = MergeMetrics(
        way=merge.merging.way.value,
        density_bps=merge.merging.density_bps,
        rank=plan.recipe.rank,
        lost_ppm=round(outcome.lost * _MICRO),
        members=tuple(
            MergedFrom(release.full_name, one.release, one.weight_ppb, gain)
            for one, (release, _), gain in zip(merge.members, members, added, strict=True)
        ),
        unseen=bool(unseen),
    )
    tuned = FineTuned(outcome.adapter, outcome.early, outcome.base, outcome.tuned, 0, 0, 0)
    return Made(tuned, split, metrics, inherited(_ancestors(shop, members, added)))


def _members(shop: Workshop, merge: MergePlan) -> list[tuple[Release, Run]]:
    found = []
    with shop.database.transaction() as transaction:
        for one in merge.members:
            release = releases.by_number(transaction, one.release)
            if release is None:
                raise NotFoundError(f"release {one.release}, which is to be merged, is not here")
            found.append((release, runs.get(transaction, release.run)))
    return found


def _commitment(shop: Workshop, release: Release, run: Run) -> Commitment:
    path = committed_card(shop.home.run(run.op))
    if not path.is_file():
        raise InvalidInputError(
            f"{release.full_name} was not trained here: only releases with an attribution state "
            "can be merged"
        )
    return decode(decode(path.read_bytes(), Committed).leaf.encode(), Commitment)


def _ancestors(
    shop: Workshop, members: Sequence[tuple[Release, Run]], added: Sequence[int]
) -> list[Ancestor]:
    found = []
    with shop.database.read() as transaction:
        for (release, _), gain in zip(members, added, strict=True):
            row = releases.terms_of(transaction, release.id, release.terms_version)
            policy = decode(row.terms, Terms).policy
            parents = stored_parents(release.parents)
            found.append(Ancestor(release.builder, policy, parents, gain))
    return found


def _added(outcome: Outcome) -> list[int]:
    """Micro-nats a token by which the measured texts are likelier with each member."""
    return [
        round((less.nats - outcome.tuned.nats) / outcome.tuned.tokens * _MICRO)
        for less in outcome.without
    ]


def _trained_on(shop: Workshop, run: Run, material: Material) -> set[Example]:
    plan = decode(run.recipe, Plan)
    if isinstance(plan.merge, MergePlan):
        parts = [_trained_on(shop, one, material) for _, one in _members(shop, plan.merge)]
        return set().union(*parts)
    pairs = dict(zip(material.rows, material.examples, strict=True))
    examples = [pairs[row] for row in _manifest(shop, run).rows]
    seed = as_bytes(run.seed) if run.seed else b""
    return set(split_by_key(examples, seed, plan.held_out_bps).training)


def _manifest(shop: Workshop, run: Run) -> TrainingManifest:
    return decode((shop.home.run(run.op) / MANIFEST).read_bytes(), TrainingManifest)
