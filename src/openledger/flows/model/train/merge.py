"""A run that merges releases instead of training.

Its data are all that its members were trained on, and its attribution state is built from their
texts, at its own parameters. What it would be without each of them is kept, so that of every answer
their builders divide the parent part by what each added. It is measured on texts that none of them
was trained on; where there are none, on those that some was not.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from openledger.attribution.card.figures import Committed
from openledger.attribution.state import Commitment, CommittedParent
from openledger.core.encoding import decode
from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
)
from openledger.core.ids import ReleaseName, WeightedName
from openledger.core.types import PARTS_PER_BILLION, Digest, as_bytes
from openledger.flows.model.train.adapters import keep
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
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter
from openledger.lm.lora import TARGETS, Adapter
from openledger.storage.records.model import releases, runs
from openledger.storage.records.model.releases import Release
from openledger.storage.records.model.runs import Run
from openledger.training.merging.outcome import Member, Outcome, merge_members
from openledger.training.merging.ways import Merging, Way, check_weights
from openledger.training.recipe import Recipe
from openledger.training.rows import Example
from openledger.training.split import Split, split_by_key
from openledger.training.task import FineTuned, Task, TrainingManifest

MERGING = "merging"
_GONE = "an adapter of {} is gone from this home; restore it, or merge other releases"
_MICRO = 1_000_000


class MergedFrom(msgspec.Struct, frozen=True):
    """One release that went into a merge."""

    name: str  # owner/name@version
    release: int
    weight_ppb: int
    added_micronats: int  # a token, on the texts that the merge was measured on; for people


class MergeMetrics(msgspec.Struct, frozen=True):
    """What a merge measured; printed on the model's card."""

    way: Way
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
    parents: tuple[CommittedParent, ...] = ()
    # Of a merge: the places of the parents that each text was trained on by.
    knew: dict[Example, tuple[int, ...]] = {}


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
        InvalidInputError: a release was not trained here or is a merge itself, or a weight is not
            above 0.
        NotFoundError: an adapter of a release is gone.
        ConflictError: a release is of another base model than this home's.
    """
    check_weights([weight / PARTS_PER_BILLION for _, weight in wanted])
    with shop.database.read() as transaction:
        of_members = [runs.get(transaction, release.run) for release, _ in wanted]
    plans, members = [], []
    for (release, weight), run in zip(wanted, of_members, strict=True):
        early = _commitment(shop, release, run).early
        plan = decode(run.recipe, Plan)
        _check_member(shop, release, plan, early)
        _manifest(shop, release, run)
        plans.append(plan)
        members.append(MergedRelease(release.number or 0, release.adapter, early, weight))
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
    return MergeWish(MergePlan(merging, recipe.rank, tuple(members)), shape, datanets)


def stored_merge(
    shop: Workshop, run: Run, wanted: Sequence[WeightedName], merging: Merging, rank: int
) -> MergeWish:
    """What a run that stands is to merge, whatever has become of its members' names since.

    Raises:
        ConflictError: the caller names other releases, another way or another rank.
    """
    plan = decode(run.recipe, Plan)
    merge = plan.merge
    if isinstance(merge, MergePlan) and (merge.merging, merge.rank) == (merging, rank):
        stands: dict[ReleaseName, MergedRelease] = {}
        for member, (release, _) in zip(merge.members, _members(shop, merge), strict=True):
            for version in (None, release.version):
                stands[ReleaseName(release.owner, release.name, version)] = member
        found = [(stands.get(one.name), one.weight_ppb) for one in wanted]
        if sorted((member.release, weight) for member, weight in found if member is not None) == [
            (member.release, member.weight_ppb) for member in merge.members
        ]:
            return MergeWish(merge, plan.recipe, plan.datanets)
    raise ConflictError(
        f"the run {run.name} was started with other choices; give the new one another name"
    )


def seen_material(shop: Workshop, merge: MergePlan, material: Material) -> Material:
    """What of the Datanets the members of a merge were trained on or held out.

    Raises:
        ConflictError: a contribution of theirs was withdrawn since.
    """
    pairs = dict(zip(material.rows, material.examples, strict=True))
    seen = set()
    for release, run in _members(shop, merge):
        for row in _manifest(shop, release, run).rows:
            if row not in pairs:
                raise ConflictError(
                    f"contribution {row.contribution}, which {release.full_name} knew, was "
                    "withdrawn; merge a release without it"
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
    trained = [_trained_on(shop, *one, material) for one in members]
    texts = _texts(material, trained)
    base = shop.base(plan.recipe.precision)
    outcome = merge_members(
        base,
        [
            Member(
                _adapter(shop, base, release, one.adapter),
                _adapter(shop, base, release, one.early),
                one.weight_ppb / PARTS_PER_BILLION,
                one.adapter,
            )
            for one, (release, _) in zip(merge.members, members, strict=True)
        ],
        merge.merging,
        Task(plan.recipe, seed, texts.split.training, texts.measured),
        folder,
        lambda done, total: tell(Step(MERGING, done, total)),
    )
    added = _added(outcome)
    metrics = MergeMetrics(
        way=merge.merging.way,
        density_bps=merge.merging.density_bps,
        rank=plan.recipe.rank,
        lost_ppm=round(outcome.lost * _MICRO),
        members=tuple(
            MergedFrom(release.full_name, one.release, one.weight_ppb, gain)
            for one, (release, _), gain in zip(merge.members, members, added, strict=True)
        ),
        unseen=bool(texts.split.held_out),
    )
    without = [
        None if one.adapter is None else keep(shop, one.adapter, base.name)
        for one in outcome.without
    ]
    parents = tuple(
        CommittedParent(one.release, release.builder, digest)
        for one, (release, _), digest in zip(merge.members, members, without, strict=True)
    )
    tuned = FineTuned(outcome.adapter, outcome.early, outcome.base, outcome.tuned, 0, 0, 0)
    knew = {
        one: tuple(place for place, some in enumerate(trained) if one in some)
        for one in texts.split.training
    }
    return Made(tuned, texts.split, metrics, parents, knew)


def _members(shop: Workshop, merge: MergePlan) -> list[tuple[Release, Run]]:
    found = []
    with shop.database.read() as transaction:
        for one in merge.members:
            release = releases.by_number(transaction, one.release)
            if release is None:
                raise NotFoundError(f"release {one.release}, which is to be merged, is not here")
            found.append((release, runs.get(transaction, release.run)))
    return found


class _Texts(msgspec.Struct, frozen=True):
    split: Split  # held out are those that no member was trained on, of the same keys neither
    measured: tuple[Example, ...]


def _texts(material: Material, trained: Sequence[set[Example]]) -> _Texts:
    by_any = set().union(*trained)
    keys = [{one.key for one in some} for some in trained]
    seen, by_all = set().union(*keys), keys[0].intersection(*keys[1:])
    unseen = tuple(one for one in material.examples if one.key not in seen)
    split = Split(tuple(one for one in material.examples if one in by_any), unseen)
    return _Texts(split, unseen or tuple(x for x in material.examples if x.key not in by_all))


def _check_member(shop: Workshop, release: Release, plan: Plan, early: Digest) -> None:
    if plan.base != shop.base_digest:
        raise ConflictError(f"{release.full_name} is made for another base model than this")
    if plan.merge is not msgspec.UNSET:
        raise InvalidInputError(f"{release.full_name} is a merge itself: name its members instead")
    for adapter in (release.adapter, early):
        if not shop.home.adapter(adapter).is_dir():
            raise NotFoundError(_GONE.format(release.full_name))


def _adapter(shop: Workshop, base: BaseModel, release: Release, digest: Digest) -> Adapter:
    try:
        return load_adapter(shop.home.adapter(digest), base, digest)
    except NotFoundError as error:
        raise NotFoundError(_GONE.format(release.full_name)) from error


def _commitment(shop: Workshop, release: Release, run: Run) -> Commitment:
    path = committed_card(shop.home.run(run.op))
    if not path.is_file():
        raise InvalidInputError(
            f"{release.full_name} was not trained here: only releases with an attribution state "
            "can be merged"
        )
    return decode(decode(path.read_bytes(), Committed).leaf.encode(), Commitment)


def _added(outcome: Outcome) -> list[int]:
    """Micro-nats a token by which the measured texts are likelier with each member."""
    return [
        round((less.measured.nats - outcome.tuned.nats) / outcome.tuned.tokens * _MICRO)
        for less in outcome.without
    ]


def _trained_on(shop: Workshop, release: Release, run: Run, material: Material) -> set[Example]:
    plan, pairs = decode(run.recipe, Plan), dict(zip(material.rows, material.examples, strict=True))
    examples = [pairs[row] for row in _manifest(shop, release, run).rows]
    seed = as_bytes(run.seed or Digest(""))
    return set(split_by_key(examples, seed, plan.held_out_bps).training)


def _manifest(shop: Workshop, release: Release, run: Run) -> TrainingManifest:
    path = shop.home.run(run.op) / MANIFEST
    if not path.is_file():
        raise NotFoundError(f"the training manifest of {release.full_name} is gone from this home")
    found = decode(path.read_bytes(), TrainingManifest)
    if found.root != run.manifest_root:
        raise DigestMismatchError(
            f"the training manifest of {release.full_name} is not the one that was anchored"
        )
    return found
