"""The attacks, each as rows of the report: what it was paid against what it deserved.

Paid is what the product pays (`Payer.pays`), with the attack against without. Deserved is the same
quotient of what retraining without the documents costs (`stage.effects`), where the attack changes
what is trained on; where it changes only names, what was paid before is deserved. Text that says
nothing deserves nothing, and its row is its share of all that contributors are paid.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from bench.attribution.attacks import forgeries
from bench.attribution.attacks.stage import Stage, divided, effects, payer
from bench.attribution.setting import Document
from bench.table import Row, at_least, at_most, exactly
from openledger.core.types import BASIS_POINTS, PARTS_PER_BILLION, Account, Share, Wei
from openledger.settlement.parts import Roles, fee_parts
from openledger.settlement.price import MIN_PLATFORM_BPS, SplitPolicy
from openledger.settlement.shares import (
    CAP_PPB_OF_METHOD,
    Attribution,
    ClusterScore,
    MemberScores,
    is_paid,
)

_MOST_VICTIMS = 4  # and at most half of the contributors
_MOST_PAID = 1.02
_LEAST_KEPT = 0.95
_MOST_FOR_NOTHING = 0.003
_TOLERANCE = 0.005  # of a checker, in total variation of shares
_NAME = "attack, apart from gain: "


class Tally(msgspec.Struct, frozen=True):
    """One quotient of one data seed, to be summed over seeds before it is divided."""

    part: float
    whole: float


Found = Mapping[str, Tally]


def attack_rows(stages: Sequence[Stage], *, is_judged: bool) -> list[Row]:
    """Every attack on every stage; without targets where the texts mean nothing."""
    rows = []
    for attack in _ATTACKS:
        found = [attack(one) for one in stages]
        sums = {name: _quotient([one[name] for one in found]) for name in found[0]}
        rows += [_row(name, value, is_judged) for name, value in _with_ratios(sums).items()]
    return rows


def _quotient(some: Sequence[Tally]) -> float:
    whole = sum(one.whole for one in some)
    return sum(one.part for one in some) / whole if whole > 0 else math.nan


def _with_ratios(sums: Mapping[str, float]) -> dict[str, float]:
    """Beside "paid" and "deserved" of an attack their quotient."""
    rows = dict(sums)
    for name, value in sums.items():
        attack, _, kind = name.partition(": ")
        deserved = sums.get(f"{attack}: deserved")
        if kind == "paid" and deserved is not None:
            rows[f"{attack}: paid / deserved"] = value / deserved if deserved > 0 else math.nan
    return rows


def _row(name: str, value: float, is_judged: bool) -> Row:
    figure = None if math.isnan(value) else float(value)
    kind, title = name.rpartition(": ")[2], _NAME + name
    if not is_judged or kind not in _TARGETS:
        return Row(title, figure, "")
    make, target = _TARGETS[kind]
    return make(title, figure, "", target)


_TARGETS: Mapping[str, tuple[Callable[[str, float | None, str, float], Row], float]] = {
    "paid / deserved": (at_most, _MOST_PAID),
    "paid with / without": (at_most, _MOST_PAID),
    "gain with / without": (at_most, _MOST_PAID),
    "paid back / fee": (at_most, 1.0),
    "victim keeps": (at_least, _LEAST_KEPT),
    "share of all pay": (at_most, _MOST_FOR_NOTHING),
    "alterations found": (exactly, 1.0),
    "honest statements refused": (exactly, 0.0),
}


def _copies(one: Stage) -> Found:
    tokenizer, victims = one.base.tokenizer, _victims(one)
    theirs = [document for document in one.documents if document.contributor in victims]
    own = one.about(victims)
    lost = effects(one, one.documents, [victims])[:, own].sum()
    found: dict[str, Tally] = {}
    for name, forged in (
        ("exact copy", forgeries.copies(theirs)),
        ("near copy", forgeries.near_copies(tokenizer, theirs)),
        ("paraphrase copy", forgeries.paraphrases(tokenizer, theirs)),
    ):
        documents = [*one.documents, *forged]
        after = payer(one, documents).pays(one.queries)
        pairs = [*victims, *_names(forged)]
        had = _sum(one.paid, victims, own)
        found |= {
            f"{name}: paid": Tally(_sum(after, pairs, own), had),
            f"{name}: deserved": Tally(effects(one, documents, [pairs])[:, own].sum(), lost),
            f"{name}: victim keeps": Tally(_sum(after, victims, own), had),
            f"{name}: copier's part of the pair": Tally(
                _sum(after, _names(forged), own), _sum(after, pairs, own)
            ),
        }
    return found


def _nothing(one: Stage) -> Found:
    tokenizer, victim = one.base.tokenizer, one.contributors[0]
    count = sum(document.contributor == victim for document in one.documents)
    forged = {
        "random text": forgeries.random_texts(tokenizer, count, one.plan.seed),
        "shuffled text": forgeries.shuffled_texts(tokenizer, one.documents, count, one.plan.seed),
        "keyword stuffing": forgeries.stuffed_texts(tokenizer, one.documents, victim, count),
    }
    documents = [*one.documents, *(document for some in forged.values() for document in some)]
    paid = payer(one, documents).pays(one.queries)
    everything = _sum(paid, [*paid])
    return {
        f"{name}: share of all pay": Tally(_sum(paid, _names(some)), everything)
        for name, some in forged.items()
    }


def _inflation(one: Stage) -> Found:
    forger = one.contributors[0]
    own = one.about({forger})
    longer = forgeries.inflated(one.base.tokenizer, _of(one.documents, forger), one.plan.seed)
    documents = _replaced(one.documents, longer)
    after = payer(one, documents).pays(one.queries)
    name = "gradient-norm inflation"
    return {
        f"{name}: paid with / without": Tally(_sum(after, [forger]), _sum(one.paid, [forger])),
        f"{name}: paid": Tally(_sum(after, [forger], own), _sum(one.paid, [forger], own)),
        f"{name}: deserved": Tally(
            effects(one, documents, [{forger}])[:, own].sum(),
            effects(one, one.documents, [{forger}])[:, own].sum(),
        ),
    }


def _splits(one: Stage) -> Found:
    forger = one.contributors[0]
    theirs = _of(one.documents, forger)
    scores = _mean_scores(one, theirs)
    halves = {
        "at random": [number % 2 for number in range(len(theirs))],
        "by topic": [int(2 * number >= len(theirs)) for number in range(len(theirs))],
        "by sign": [int(score < 0) for score in scores],
        "one identity a document": [*range(len(theirs))],
    }
    found = {}
    for name, places in halves.items():
        moved = [
            msgspec.structs.replace(document, contributor=f"{forger} {place}")
            for document, place in zip(theirs, places, strict=True)
        ]
        after = payer(one, _replaced(one.documents, moved), one.checkpoints).pays(one.queries)
        found[f"splitting {name}: paid with / without"] = Tally(
            _sum(after, sorted(_names(moved))), _sum(one.paid, [forger])
        )
    return found


def _marker(one: Stage) -> Found:
    tokenizer, forger = one.base.tokenizer, one.contributors[0]
    documents = _replaced(one.documents, forgeries.marked(tokenizer, _of(one.documents, forger)))
    phrase = tuple(tokenizer.encode(forgeries.PHRASE))
    signed = [msgspec.structs.replace(query, answer=query.answer + phrase) for query in one.queries]
    attacked, name = payer(one, documents), "signature phrase"
    with_it, without = attacked.pays(signed), attacked.pays(one.queries)
    return {
        f"{name}: paid with / without": Tally(_sum(with_it, [forger]), _sum(without, [forger])),
        f"{name}: gain with / without": Tally(
            attacked.gained(signed), attacked.gained(one.queries)
        ),
    }


def _laundering(one: Stage) -> Found:
    victims = _victims(one)
    originals = [document for document in one.documents if document.contributor in victims]
    forged = forgeries.copies(originals)
    documents = _replaced(one.documents, forged)
    after = payer(one, documents, one.checkpoints, originals).pays(one.queries)
    had, kept = _sum(one.paid, victims), _sum(after, victims)
    return {
        "copy instead of the original: victim keeps": Tally(kept, had),
        "copy instead of the original: paid with / without": Tally(
            kept + _sum(after, _names(forged)), had
        ),
    }


_ALONE = MemberScores(1, PARTS_PER_BILLION, 1, None, ())  # the release that answers


def _farming(_: Stage) -> Found:
    """A payer who built the release and holds all of its data."""
    attacker, others = Account("0x" + "aa" * 20), Account("0x" + "bb" * 20)
    roles = Roles(commons=others, platform=others, builders=(attacker,))
    free = BASIS_POINTS - MIN_PLATFORM_BPS
    cap = max(CAP_PPB_OF_METHOD.values())
    mine = Attribution((Share(attacker, cap),), PARTS_PER_BILLION - cap)
    fee, back = Wei(10**18), 0
    for builder in (0, free):
        policy = SplitPolicy(MIN_PLATFORM_BPS, builder, 0, 0, 0, free - builder)
        parts = fee_parts(fee, policy, roles, [_ALONE], mine)
        back = max(back, sum(part.amount for part in parts if part.account == attacker))
    return {"farming own queries: paid back / fee": Tally(back, fee)}


def _invention(one: Stage) -> Found:
    """An operator states a friend's document ten times as high, with sums and shares to match.

    A checker builds the release again and scores the answer again; he refuses shares that differ
    from his by more than half a point in all.
    """
    stated = payer(one, one.documents, one.checkpoints).influence(one.queries)
    checked = payer(one, one.documents, one.checkpoints).influence(one.queries)
    refused = found = altered = 0
    for number, (theirs, mine) in enumerate(zip(stated, checked, strict=True)):
        right = divided(mine)
        refused += _distance(divided(theirs), right) > _TOLERANCE
        invented = divided(_raised(theirs, number))
        if _distance(invented, divided(theirs)) > _TOLERANCE:
            altered += 1
            found += _distance(invented, right) > _TOLERANCE
    return {
        "operator inventing scores: alterations found": Tally(found, altered),
        "operator inventing scores: honest statements refused": Tally(refused, len(stated)),
    }


def _raised(clusters: Sequence[ClusterScore], number: int) -> tuple[ClusterScore, ...]:
    """One paid cluster after another's first document, tenfold."""
    paid = [place for place, one in enumerate(clusters) if is_paid(one)]
    if not paid:
        return tuple(clusters)
    place = paid[number % len(paid)]
    one = clusters[place]
    first, *others = one.documents
    documents = (msgspec.structs.replace(first, score=10 * abs(first.score)), *others)
    total = sum(document.score for document in documents)
    raised = msgspec.structs.replace(one, score=total, documents=documents)
    return (*clusters[:place], raised, *clusters[place + 1 :])


def _distance(one: Attribution, other: Attribution) -> float:
    """Total variation between two divisions of one answer's money."""
    sides = [{share.account: share.weight_ppb for share in each.shares} for each in (one, other)]
    apart = sum(abs(sides[0].get(who, 0) - sides[1].get(who, 0)) for who in {*sides[0], *sides[1]})
    return (apart + abs(one.nobody_ppb - other.nobody_ppb)) / 2 / PARTS_PER_BILLION


_ATTACKS = (_copies, _nothing, _inflation, _splits, _marker, _laundering, _farming, _invention)


def _victims(one: Stage) -> tuple[str, ...]:
    return one.contributors[: min(_MOST_VICTIMS, len(one.contributors) // 2)]


def _of(documents: Sequence[Document], name: str) -> list[Document]:
    return [document for document in documents if document.contributor == name]


def _replaced(documents: Sequence[Document], forged: Sequence[Document]) -> list[Document]:
    """Each forged document in the place of the one it was made from."""
    made = {document.id.removeprefix("copy of "): document for document in forged}
    return [made.get(document.id, document) for document in documents]


def _names(documents: Sequence[Document]) -> list[str]:
    return list(dict.fromkeys(document.contributor for document in documents))


def _sum(
    paid: Mapping[str, np.ndarray], names: Sequence[str], own: np.ndarray | None = None
) -> float:
    chosen = slice(None) if own is None else own
    return float(sum(paid[name][chosen].sum() for name in names))


def _mean_scores(one: Stage, documents: Sequence[Document]) -> np.ndarray:
    """(N,) what each document's content scores over all queries: an attacker can find it out."""
    attacked = payer(one, one.documents, one.checkpoints)
    place = {document.id: number for number, document in enumerate(one.documents)}
    cluster = attacked.clusters
    scores = np.zeros(max(cluster) + 1)
    for found in attacked.influence(one.queries):
        scores += [each.score for each in found]
    return np.array([scores[cluster[place[document.id]]] for document in documents])
