"""The first to commit a passage keeps its credit; the later text loses only that."""

from hypothesis import given
from hypothesis import strategies as st

from openledger.attribution.credit.documents import CreditDocument, ElsewhereText
from openledger.attribution.credit.priority import credit_parts
from openledger.settlement.shares import CreditPart
from tests.attribution.releases import account, some_text

ALICE, BOB, CAROL = account(1), account(2), account(3)


def document(number: int, owner: str, text: str) -> CreditDocument:
    return CreditDocument(number, account(int(owner, 16)), text, ())


def weight_of(parts: tuple[CreditPart, ...], owner: str) -> float:
    """The part of the document that is one account's."""
    return sum(p.weight for p in parts if p.account == owner) / sum(p.weight for p in parts)


def test_texts_of_their_own_have_no_parts() -> None:
    texts = [document(i, ALICE if i % 2 else BOB, some_text(i)) for i in range(4)]

    assert credit_parts(texts) == [()] * 4


def test_a_copy_is_the_earlier_accounts() -> None:
    text = some_text(1)

    found = credit_parts([document(0, ALICE, text), document(1, BOB, text.upper())])

    assert found[0] == ()
    assert {part.account for part in found[1]} == {ALICE}


def test_a_near_copy_is_nearly_the_earlier_accounts() -> None:
    text = some_text(1, words=200)
    words = text.split()
    near = " ".join("zzzz" if i % 8 == 7 else word for i, word in enumerate(words))

    (_, parts) = credit_parts([document(0, ALICE, text), document(1, BOB, near)])

    assert weight_of(parts, ALICE) >= 0.95


def test_only_the_contained_paragraph_is_lost() -> None:
    stolen, own = some_text(1, words=40), some_text(2, words=120)

    (_, parts) = credit_parts([document(0, ALICE, stolen), document(1, BOB, f"{own}\n\n{stolen}")])

    assert 0.2 < weight_of(parts, ALICE) < 0.3
    assert weight_of(parts, BOB) == 1 - weight_of(parts, ALICE)


def test_a_mosaic_of_many_earlier_texts_is_theirs() -> None:
    earlier = [some_text(i, words=30) for i in range(4)]
    mosaic = " ".join(" ".join(text.split()[:12]) for text in earlier)

    found = credit_parts(
        [*(document(i, account(i + 1), text) for i, text in enumerate(earlier)),
         document(4, account(9), mosaic)]
    )  # fmt: skip

    assert weight_of(found[4], account(9)) == 0
    assert len(found[4]) == 4


def test_what_was_committed_later_takes_nothing() -> None:
    text = some_text(1)
    later = ElsewhereText(BOB, text, before=1)

    assert credit_parts([document(0, ALICE, text)], [later]) == [()]


def test_the_original_is_credited_though_only_its_copy_was_trained_on() -> None:
    text = some_text(1)
    earlier = ElsewhereText(ALICE, text, before=0)

    (parts,) = credit_parts([document(0, BOB, text)], [earlier])

    assert {part.account for part in parts} == {ALICE}


def test_credit_does_not_pass_along_a_chain() -> None:
    """The third shares half of its words with the second, none with the first."""
    pieces = [some_text(i, words=30) for i in range(4)]
    chain = [f"{pieces[i]}\n{pieces[i + 1]}" for i in range(3)]

    found = credit_parts(
        [document(i, owner, text) for i, (owner, text) in enumerate(
            zip((ALICE, BOB, CAROL), chain, strict=True))]
    )  # fmt: skip

    assert weight_of(found[2], ALICE) == 0
    assert 0.4 < weight_of(found[2], BOB) < 0.6


def test_ones_own_earlier_text_takes_nothing_away() -> None:
    text = some_text(1)

    assert credit_parts([document(0, ALICE, text), document(1, ALICE, text)]) == [(), ()]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([ALICE, BOB, CAROL])), max_size=8))
def test_parts_are_above_zero_by_account_and_never_of_a_later_one(
    drawn: list[tuple[int, str]],
) -> None:
    texts = [
        document(i, owner, some_text(kind) + "\n" + some_text(kind // 2))
        for i, (kind, owner) in enumerate(drawn)
    ]

    for number, parts in enumerate(credit_parts(texts)):
        accounts = [part.account for part in parts]
        assert all(part.weight > 0 for part in parts)
        assert accounts == sorted(accounts, key=str)
        assert len(set(accounts)) == len(accounts)
        assert set(accounts) <= {one.account for one in texts[: number + 1]}
