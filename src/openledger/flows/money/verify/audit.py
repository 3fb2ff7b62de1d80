"""Level 3: adapters trained again without one contributor each, and what that did to the answers.

Recipe, texts and seed are those that were anchored before the run. Each of a few contributors is
left out, from several seeds, since one seed's adapter differs from the next one's by itself. The
effect of a contributor on an answer is how much likelier his texts made it; it is held against his
share.

Where audited answers are corrected by half-data adapters, one of those is trained again, too: it
should say of the answers what the exported one says, up to how machines round, and not differ from
it as another half would.

The rows that scores came from are made again, too, from the same texts and checkpoints, and the
answers attributed by them: levels 1 and 2 take the rows as the builder committed to them.

What comes out are numbers, no verdict: shares follow influence at one point, retraining sees the
whole way there, and with few seeds it is noisy itself.
"""

import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from openledger.attribution.card.figures import Audit as CardAudit
from openledger.attribution.card.panel import halves_of
from openledger.attribution.card.subsets import seed_of_half
from openledger.attribution.influence.gradients import probed_checkpoints
from openledger.attribution.release import Recipe as BuildRecipe
from openledger.attribution.release import TrainingExample, build
from openledger.attribution.state import AttributionState
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Precision, as_bytes
from openledger.flows.money.verify.bundle import Bundle
from openledger.flows.money.verify.export import Export, adapter_folders, read_plan
from openledger.flows.money.verify.full import draw
from openledger.flows.money.verify.recompute import (
    attribute_again,
    exported_state,
    opened_ids,
)
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter
from openledger.lm.frozen import forget_caches, hidden_cache
from openledger.lm.lora import Adapter
from openledger.settlement.price import MixMember
from openledger.settlement.receipt import why_unscored
from openledger.settlement.shares import combine, distance_ppb
from openledger.training.rows import Example, Row, encode_rows
from openledger.training.split import split_by_key
from openledger.training.steps.ensemble import Answer, Member, answer_losses, train_members

LEVEL = "L3"
_MICRO = 1_000_000

Progress = Callable[[int, int], None]


class Retraining(msgspec.Struct, frozen=True):
    """How thorough an audit is: each left-out contributor costs one training for each seed."""

    leave_outs: int = 4
    seeds: int = 2
    word: str = ""  # the auditor's own, told to nobody before; it draws a half-data adapter

    def __post_init__(self) -> None:
        if self.leave_outs < 2 or self.seeds < 1:
            raise InvalidInputError(
                "an audit leaves out at least 2 contributors, from 1 seed or more"
            )


class Effect(msgspec.Struct, frozen=True):
    """One contributor's part in all audited answers."""

    account: Account
    share_ppb: int  # as signed, mean over the receipts
    effect_micronats: int  # per token: how much likelier his texts made the answers


class HalfRetrained(msgspec.Struct, frozen=True):
    """One half-data adapter, trained again on its half."""

    number: int  # among those of the release, from 0
    apart_micronats: int  # per token: from what the exported one says of the answers, mean
    usual_micronats: int  # the same between the exported one and those of other halves


class Audit(msgspec.Struct, frozen=True):
    """What retraining says of receipts; floats, since nothing here is signed or paid."""

    receipts: int
    trainings: int
    effects: tuple[Effect, ...]  # by account
    rank_correlation: float | None  # of effects and shares, mean over receipts; None: all alike
    total_variation: float  # of shares and positive effects, each made to sum to 1; mean
    rebuilt_ppb: int  # from the shares to those by rows made again: total variation, the largest
    credited_otherwise: int  # documents of which other accounts are paid than their texts say
    half: HalfRetrained | None  # None: the release has no half-data adapters


def audit(
    bundles: Sequence[Bundle],
    export: Export,
    load: Callable[[Precision], BaseModel],
    choice: Retraining,
    scratch: Path,
    progress: Progress | None = None,
) -> Audit:
    """Retrain, and compare with the shares of receipts that hold to level 1.

    Args:
        bundles: of one release, each with its text opened.
        export: of that release, with the training texts.
        load: the base model, in a precision; asked once for each bundle besides.
        choice: how many contributors to leave out, from how many seeds.
        scratch: a folder for caches, which are deleted again.
        progress: is told (steps done, steps in all).

    Raises:
        InvalidInputError: the receipts are of another method or of several releases, or the release
            has one contributor or was merged from others.
        NotFoundError: the export holds no texts.
        VerificationError: the texts are not those that were trained on.
    """
    plan, seed = read_plan(export.folder), as_bytes(export.body.release.seed)
    if plan.merge is not None:
        raise InvalidInputError(
            "this release was merged from others and never trained: audit those, "
            "and check its own receipts to level 2"
        )
    base = load(plan.recipe.precision)
    for bundle in bundles:
        the_only_member(bundle)
    split = split_by_key(export.texts(), seed, plan.held_out_bps)
    state = exported_state(bundles[0], export)
    _check_trained_on(split.training, state)
    shares = _shares(bundles)
    chosen = _chosen(shares, {one.account for one in split.training}, choice.leave_outs)
    answers = [_answer(one) for one in bundles]
    rows = encode_rows(base.tokenizer, split.training, plan.recipe.max_length)
    members = [
        Member(_without(rows, split.training, left_out), sha256(seed + bytes([turn])).digest())
        for turn in range(choice.seeds)
        for left_out in (None, *chosen)
    ]
    halves = _Halves(state, export, choice.word)
    wanted = [*members, *halves.members(rows, split.training, seed)]
    first = plan.recipe.shape(base.layers).layers[0]
    cache = hidden_cache(scratch, base, first, [row.tokens for row in rows])
    try:
        adapters = train_members(base, plan.recipe, rows, cache, wanted, progress)
        again = _rebuilt(export, state, base, _examples(rows, split.training), scratch)
    finally:
        forget_caches(scratch)
    found = answer_losses(base, [*adapters, *halves.exported(base)], answers)
    losses = np.array(found.tolist())
    by_seed = losses[: len(members)].reshape(choice.seeds, 1 + len(chosen), len(bundles))
    effects = (by_seed[:, 1:] - by_seed[:, :1]).mean(0).T  # (receipts, contributors)
    ranked, apart = _compared(chosen, shares, effects)
    credited = _with_parts_of(state, again)
    return Audit(
        receipts=len(bundles),
        trainings=len(wanted),
        effects=_effects(chosen, shares, effects),
        rank_correlation=ranked,
        total_variation=apart,
        rebuilt_ppb=max(_distance(one, export, credited, load) for one in bundles),
        credited_otherwise=_credited_otherwise(again, state),
        half=halves.compared(losses[len(members) :]),
    )


def the_only_member(bundle: Bundle) -> MixMember:
    """The release that answered alone, at weight 1.

    Raises:
        InvalidInputError: a mix did, and this level cannot check those.
    """
    first, *others = bundle.receipt.call.body.mix
    if others:
        raise InvalidInputError(
            f"{1 + len(others)} releases gave this answer together, and level 3 checks answers of "
            "one: check it to level 2"
        )
    if first.weight_ppb != PARTS_PER_BILLION:
        raise InvalidInputError(
            f"{first.name} gave this answer at another weight than 1, and level 3 checks answers "
            "at weight 1: check it to level 2"
        )
    return first


class _Halves:
    """The half-data adapters of a release, one of which is trained again."""

    def __init__(self, state: AttributionState, export: Export, word: str) -> None:
        audit = state.manifest.audit
        self._adapters = audit.adapters if isinstance(audit, CardAudit) else ()
        self._manifest, self._export = state.manifest, export
        (self._number,) = draw(word, 1, max(1, len(self._adapters)))

    def members(
        self, rows: Sequence[Row], training: Sequence[Example], seed: bytes
    ) -> list[Member]:
        """The training of the drawn one, by recipe and seed of the run; none of none."""
        if not self._adapters:
            return []
        half = halves_of(self._manifest, len(self._adapters)).kept[self._number]
        kept = {
            e.document for e, is_kept in zip(self._manifest.documents, half, strict=True) if is_kept
        }
        places = [i for i, row in enumerate(rows) if training[row.example].document in kept]
        return [Member(tuple(places), seed_of_half(seed, self._number))]

    def exported(self, base: BaseModel) -> list[Adapter]:
        """All of them, as they were exported."""
        folders = adapter_folders(self._manifest, self._export.body.release.adapter)
        return [
            load_adapter(self._export.folder / folders[one], base, one) for one in self._adapters
        ]

    def compared(self, losses: np.ndarray) -> HalfRetrained | None:
        """From (1 + K, answers): the one that was trained again, then all exported ones."""
        if not self._adapters:
            return None
        again, exported = losses[0], losses[1:]
        own = exported[self._number]
        others = np.delete(exported, self._number, axis=0)
        return HalfRetrained(
            self._number,
            round(float(np.abs(again - own).mean()) * _MICRO),
            round(float(np.abs(others - own).mean()) * _MICRO),
        )


def _effects(
    chosen: Sequence[Account], shares: Sequence[dict[Account, int]], effects: np.ndarray
) -> tuple[Effect, ...]:
    found = []
    for account, effect in sorted(zip(chosen, effects.mean(0).tolist(), strict=True)):
        share = sum(one.get(account, 0) for one in shares) / len(shares)
        found.append(Effect(account, round(share), round(effect * _MICRO)))
    return tuple(found)


def _compared(
    chosen: Sequence[Account], shares: Sequence[dict[Account, int]], effects: np.ndarray
) -> tuple[float | None, float]:
    """Rank correlation and total variation, each the mean over receipts."""
    signed = np.array([[one.get(account, 0) for account in chosen] for one in shares], float)
    found = [rank_correlation(*pair) for pair in zip(signed, effects, strict=True)]
    ranked = [one for one in found if one is not None]
    apart = [_variation(*pair) for pair in zip(signed, effects, strict=True)]
    return float(np.mean(ranked)) if ranked else None, float(np.mean(apart))


def _examples(rows: Sequence[Row], training: Sequence[Example]) -> list[TrainingExample]:
    tokens: list[list[tuple[int, ...]]] = [[] for _ in training]
    for row in rows:
        tokens[row.example].append(row.tokens)
    return [
        TrainingExample(one.digest, one.document, one.account, one.text, tuple(some))
        for one, some in zip(training, tokens, strict=True)
    ]


def _rebuilt(
    export: Export,
    state: AttributionState,
    base: BaseModel,
    examples: Sequence[TrainingExample],
    scratch: Path,
) -> AttributionState:
    """The same state, from its texts and checkpoints alone."""
    commitment = state.manifest.commitment
    folders = adapter_folders(state.manifest, commitment.adapter)
    models = probed_checkpoints(
        base, lambda one: export.folder / folders[one], commitment.early, commitment.adapter
    )
    wanted = BuildRecipe(commitment.adapter, commitment.early, commitment.seed)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        # Inside, so that what the training cached beside it serves again.
        built = build(Path(folder), models, examples, wanted)
    commitment = msgspec.structs.replace(built.manifest.commitment, audit=commitment.audit)
    manifest = msgspec.structs.replace(built.manifest, commitment=commitment)
    return msgspec.structs.replace(built, manifest=manifest)


def _credited_otherwise(again: AttributionState, state: AttributionState) -> int:
    """Texts of other Datanets, which an export does not hold, may have a part in documents."""
    pairs = zip(again.manifest.documents, state.manifest.documents, strict=True)
    return sum(new.parts != old.parts for new, old in pairs)


def _with_parts_of(state: AttributionState, again: AttributionState) -> AttributionState:
    pairs = zip(again.manifest.documents, state.manifest.documents, strict=True)
    documents = tuple(msgspec.structs.replace(new, parts=old.parts) for new, old in pairs)
    manifest = msgspec.structs.replace(again.manifest, documents=documents)
    return msgspec.structs.replace(again, manifest=manifest)


def _distance(
    bundle: Bundle,
    export: Export,
    again: AttributionState,
    load: Callable[[Precision], BaseModel],
) -> int:
    receipt = bundle.receipt
    if why_unscored(receipt.call, the_only_member(bundle)) is not None:
        return 0  # level 1 says that nobody may be paid
    base = load(receipt.statement.body.precision)
    found = attribute_again(bundle, [export], {export.body.release.number: again}, base)
    return distance_ppb(combine(found), receipt.statement.body.attribution)


def _check_trained_on(training: Sequence[Example], state: AttributionState) -> None:
    """The training root names every text in its order, and whose each document is."""
    owners = {entry.document: entry.account for entry in state.manifest.documents}
    named = [(one.digest, one.document, owners[one.document]) for one in state.manifest.examples]
    if [(one.digest, one.document, one.account) for one in training] != named:
        raise VerificationError("the texts are not those under the training root of the receipt")


def _shares(bundles: Sequence[Bundle]) -> list[dict[Account, int]]:
    found = [one.receipt.statement.body.attribution.shares for one in bundles]
    return [{share.account: share.weight_ppb for share in one} for one in found]


def _chosen(
    shares: Sequence[dict[Account, int]], contributors: set[Account], count: int
) -> list[Account]:
    """Contributors evenly over the order of what they were paid, from the most to the least."""
    if len(contributors) < 2:
        raise InvalidInputError("a release with one contributor has none to compare with")
    paid = {account: sum(one.get(account, 0) for one in shares) for account in contributors}
    ranked = sorted(contributors, key=lambda account: (-paid[account], account))
    count = min(count, len(ranked))
    return [ranked[turn * (len(ranked) - 1) // (count - 1)] for turn in range(count)]


def _without(
    rows: Sequence[Row], training: Sequence[Example], left_out: Account | None
) -> tuple[int, ...]:
    return tuple(
        place for place, row in enumerate(rows) if training[row.example].account != left_out
    )


def _answer(bundle: Bundle) -> Answer:
    prompt, answer = opened_ids(bundle, "prompt"), opened_ids(bundle, "answer")
    if not answer or len(prompt) + len(answer) < 2:
        raise InvalidInputError("an answer of no token that something stands before has no effects")
    return Answer((*prompt, *answer), max(1, len(prompt)))


def _variation(signed: np.ndarray, effects: np.ndarray) -> float:
    return float(np.abs(_parts(signed) - _parts(np.maximum(effects, 0))).sum() / 2)


def _parts(weights: np.ndarray) -> np.ndarray:
    """Made to sum to 1; where there is no weight at all, alike."""
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1 / len(weights))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's; None where one of both has no order."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Places in rising order; equal values share the mean of theirs."""
    below = (values[:, None] > values[None]).sum(1)
    equal = (values[:, None] == values[None]).sum(1)
    ranks: np.ndarray = below + (equal - 1) / 2
    return ranks
