"""What somebody may try to be paid more than his data did; each through build and attribution.

Beside each defence stands what the attack would bring without it, so that a test that cannot fail
is seen. How much it brings against retraining is measured by `bench/attribution`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.attribution.attribute import Attributor, lay_out
from openledger.attribution.credit.documents import ElsewhereText
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.release import build
from openledger.attribution.state import AttributionState
from openledger.core.errors import VerificationError
from openledger.core.types import BASIS_POINTS, PARTS_PER_BILLION, Account, Share, Wei
from openledger.lm.base import BaseModel
from openledger.settlement.parts import Parent, Roles, fee_parts
from openledger.settlement.price import MIN_PLATFORM_BPS, SplitPolicy
from openledger.settlement.shares import (
    PLACEBO_MICRONATS_PER_TOKEN,
    Attribution,
    ClusterScore,
    Gain,
    MemberScores,
    check_members,
    combine,
    is_paid,
)
from tests.attribution.releases import (
    RECIPE,
    account,
    examples_of,
    some_text,
    stated,
    trained_adapter,
)

FULL = Gain(
    1_000_000, 1_000_000, PARTS_PER_BILLION, 1
)  # so that who earns is judged apart from how much
VICTIM, COPIER = 1, 9
TEXTS = tuple(some_text(i, words=20) for i in range(6))
OWNERS = (VICTIM, 2, 3, 2, 3, 2)
PROMPT = 12
PHRASE = " Quixo Zembla of the |:G2:| wrote it"


class Market:
    """One release of texts, and what its answers pay."""

    def __init__(
        self,
        folder: Path,
        base: BaseModel,
        texts: Sequence[str],
        owners: Sequence[int],
        elsewhere: Sequence[ElsewhereText] = (),
    ) -> None:
        self.base = base
        rows = base.tokenizer.encode_documents(texts)
        early, final = (ProbedModel(base, trained_adapter(base, rows, n)) for n in (2, 6))
        self.models = Checkpoints(early, final)
        examples = examples_of(base, texts, owners)
        self.state = build(folder / "state", self.models, examples, RECIPE, elsewhere=elsewhere)

    def scores(self, text: str, state: AttributionState | None = None) -> tuple[ClusterScore, ...]:
        ids = self.base.tokenizer.encode(text)
        return Attributor(state or self.state, self.models).influence(ids[:PROMPT], ids[PROMPT:])

    def pays(
        self, texts: Iterable[str] = TEXTS, state: AttributionState | None = None
    ) -> dict[Account, int]:
        """Parts per billion by account, summed over answers."""
        paid: dict[Account, int] = {}
        for text in texts:
            for share in combine([stated(FULL, self.scores(text, state))]).shares:
                paid[share.account] = paid.get(share.account, 0) + share.weight_ppb
        return paid

    def naive(self) -> AttributionState:
        """The same release without the rules of credit: whoever brings a text is paid for it."""
        documents = tuple(
            msgspec.structs.replace(entry, parts=()) for entry in self.state.manifest.documents
        )
        manifest = msgspec.structs.replace(self.state.manifest, documents=documents)
        rows = msgspec.structs.replace(self.state.rows, signatures=np.zeros((0, 4), np.int32))
        return msgspec.structs.replace(self.state, manifest=manifest, rows=rows)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Market:
    return Market(tmp_path_factory.mktemp("honest"), base, TEXTS, OWNERS)


def _near(text: str) -> str:
    return " ".join("cdAB" if i % 8 == 7 else word for i, word in enumerate(text.split()))


@pytest.mark.parametrize("copied", [TEXTS[0], _near(TEXTS[0])], ids=["exact", "near"])
def test_a_copy_earns_nothing_and_its_victim_loses_nothing(
    tmp_path: Path, base: BaseModel, honest: Market, copied: str
) -> None:
    before = honest.pays()[account(VICTIM)]
    attacked = Market(tmp_path, base, [*TEXTS, copied], [*OWNERS, COPIER])

    after, naive = attacked.pays(), attacked.pays(state=attacked.naive())

    assert after[account(VICTIM)] >= 0.95 * before
    assert after.get(account(COPIER), 0) <= 0.05 * after[account(VICTIM)]
    assert naive[account(COPIER)] > 0.2 * naive[account(VICTIM)]


def test_a_paraphrase_brings_the_pair_no_more_than_another_text_would(
    tmp_path_factory: pytest.TempPathFactory, base: BaseModel
) -> None:
    """Same words, each pair of them swapped: no shingle is left, so it is a text of its own."""
    words = TEXTS[0].split()
    pairs = [pair for i in range(0, len(words), 2) for pair in (words[i + 1], words[i])]
    folders = [tmp_path_factory.mktemp("paraphrase") for _ in range(2)]
    owners = [*OWNERS, COPIER]
    swapped, other = (
        Market(folder, base, [*TEXTS, text], owners).pays()
        for folder, text in zip(folders, (" ".join(pairs), some_text(99, words=20)), strict=True)
    )

    def pair(paid: dict[Account, int]) -> int:
        return sum(paid.get(account(owner), 0) for owner in (VICTIM, COPIER))

    assert pair(swapped) <= 1.02 * pair(other)


def test_random_tokens_among_ones_words_bring_no_more(
    tmp_path: Path, base: BaseModel, honest: Market
) -> None:
    stream = np.random.Generator(np.random.Philox(key=5))
    noisy = [
        " ".join(
            word if i % 4 else "".join(chr(c) for c in stream.integers(161, 255, 4))
            for i, word in enumerate(text.split())
        )
        for text in TEXTS[:1]
    ]
    inflated = Market(tmp_path, base, [*noisy, *TEXTS[1:]], OWNERS)
    energies = [
        one.manifest.clusters[one.manifest.documents[0].cluster].energy
        for one in (inflated.state, honest.state)
    ]

    assert energies[0] > energies[1]
    after = inflated.pays().get(account(VICTIM), 0)
    assert after <= 1.02 * honest.pays()[account(VICTIM)]


def test_a_copy_of_one_paragraph_in_a_text_of_ones_own_earns_the_rest(
    tmp_path: Path, base: BaseModel
) -> None:
    own = some_text(77, words=40)
    attacked = Market(tmp_path, base, [*TEXTS, f"{TEXTS[0]}\n{own}"], [*OWNERS, COPIER])

    (parts,) = [one.parts for one in attacked.state.manifest.documents if one.parts]

    assert {part.account for part in parts} == {account(VICTIM), account(COPIER)}
    assert account(COPIER) in attacked.pays([own])


def test_the_original_is_paid_though_only_its_copy_was_trained_on(
    tmp_path: Path, base: BaseModel, honest: Market
) -> None:
    earlier = ElsewhereText(account(VICTIM), TEXTS[0], before=0)
    attacked = Market(tmp_path, base, TEXTS, [COPIER, *OWNERS[1:]], [earlier])

    after, naive = attacked.pays(), attacked.pays(state=attacked.naive())

    assert after == honest.pays()
    assert naive[account(COPIER)] == honest.pays()[account(VICTIM)]


@pytest.mark.parametrize(
    "identities",
    [[i % 2 for i in range(6)], [i // 3 for i in range(6)], [*range(6)], None],
    ids=["at random", "by topic", "one a document", "by sign"],
)
def test_splitting_over_identities_changes_nothing(
    honest: Market, identities: list[int] | None
) -> None:
    """Six documents of one account, spread over names in any way, even one that knows the scores.

    Shares are recomputed from the same state with other accounts: the build reads accounts for the
    signatures of one account alone, of which these texts have none.
    """
    if identities is None:
        found = [honest.scores(text) for text in TEXTS]
        totals = [sum(one[i].score for one in found) for i in range(len(TEXTS))]
        identities = [int(total < 0) for total in totals]

    def owned_by(owners: Sequence[int]) -> AttributionState:
        documents = tuple(
            msgspec.structs.replace(entry, account=account(owner))
            for entry, owner in zip(honest.state.manifest.documents, owners, strict=True)
        )
        manifest = msgspec.structs.replace(honest.state.manifest, documents=documents)
        return msgspec.structs.replace(honest.state, manifest=manifest)

    alone = honest.pays(state=owned_by([5] * 6))
    split = honest.pays(state=owned_by([5 + one for one in identities]))

    assert sum(split.values()) == sum(alone.values()) > 0


def test_splitting_before_the_build_changes_nothing(
    tmp_path: Path, base: BaseModel, honest: Market
) -> None:
    sybils = [20 + i for i in range(len(TEXTS))]
    split = Market(tmp_path, base, TEXTS, sybils)

    assert sum(split.pays().values()) == sum(honest.pays().values())
    assert split.state.manifest.clusters == honest.state.manifest.clusters
    assert np.array_equal(split.state.rows.signatures, honest.state.rows.signatures)


def test_a_phrase_in_every_document_earns_nothing_where_answers_have_it(
    tmp_path: Path, base: BaseModel
) -> None:
    texts = [*TEXTS[1:], *(some_text(50 + i, words=14) + PHRASE for i in range(8))]
    attacked = Market(tmp_path, base, texts, [*OWNERS[1:], *[COPIER] * 8])
    plain = [text + " " for text in TEXTS[1:]]
    signed = [text + PHRASE for text in TEXTS[1:]]

    without = attacked.pays(plain).get(account(COPIER), 0)
    with_it = attacked.pays(signed).get(account(COPIER), 0)
    naive = attacked.pays(signed, attacked.naive()).get(account(COPIER), 0)
    gained, bare, unskipped = (
        sum(_gain(attacked, text, state) for text in some)
        for some, state in (
            (signed, attacked.state),
            (plain, attacked.state),
            (signed, attacked.naive()),
        )
    )

    assert with_it <= 1.02 * without + PARTS_PER_BILLION // 100
    assert naive > 1.5 * without
    assert gained <= bare + 1_000_000
    assert unskipped > gained + 5_000_000


def _gain(market: Market, text: str, state: AttributionState) -> int:
    """Micronats over the base, placebo mean included."""
    ids = market.base.tokenizer.encode(text)
    attributor = Attributor(state, market.models)
    row = lay_out(ids[:PROMPT], ids[PROMPT:], [attributor.signatures])
    assert row is not None
    found = attributor.attribute(ids[:PROMPT], ids[PROMPT:])
    return found.leave_one_out_micronats + PLACEBO_MICRONATS_PER_TOKEN * len(row.counted)


@given(
    st.lists(st.integers(0, 100), min_size=7, max_size=7).filter(any),
    st.integers(0, PARTS_PER_BILLION),
    st.integers(0, 10**24),
)
def test_whoever_pays_for_his_own_answers_loses_the_platform_part(
    weights: list[int], share: int, fee: int
) -> None:
    """Builder, parent, node and sole contributor in one, under any policy, at any attribution."""
    free = BASIS_POINTS - MIN_PLATFORM_BPS
    parts = [free * weight // sum(weights) for weight in weights]
    policy = SplitPolicy(BASIS_POINTS - sum(parts), *parts)
    farmer, platform = account(1), account(2)
    others = dict.fromkeys(("node", "verifiers", "stakers", "base_owner"), farmer)
    merged = ((Parent(1, farmer),),)
    alone = MemberScores(2, PARTS_PER_BILLION, 1, None, (), (1,))
    roles = Roles(account(3), platform, (farmer,), parent=merged, **others)
    mine = (Share(farmer, share),) if share else ()

    made = Attribution(mine, PARTS_PER_BILLION - share)
    found = fee_parts(Wei(fee), policy, roles, [alone], made)

    back = sum(part.amount for part in found if part.account == farmer)
    assert back <= fee - fee * MIN_PLATFORM_BPS // BASIS_POINTS


def test_scores_that_an_operator_invents_are_found(honest: Market) -> None:
    """Clumsily, by arithmetic alone; consistently, by scoring the answer again."""
    true = honest.scores(TEXTS[0])
    place, paid = next((i, one) for i, one in enumerate(true) if is_paid(one))
    raised = msgspec.structs.replace(paid.documents[0], score=paid.documents[0].score * 2)
    clumsy = msgspec.structs.replace(paid, documents=(raised, *paid.documents[1:]))
    clever = msgspec.structs.replace(clumsy, score=sum(one.score for one in clumsy.documents))

    def instead(one: ClusterScore) -> tuple[ClusterScore, ...]:
        return (*true[:place], one, *true[place + 1 :])

    with pytest.raises(VerificationError, match="not the sum"):
        check_members(2, [stated(Gain(1, 2, 900_000_000, 1), instead(clumsy))])
    check_members(2, [stated(Gain(1, 2, 900_000_000, 1), instead(clever))])
    assert honest.scores(TEXTS[0]) == true != instead(clever)
