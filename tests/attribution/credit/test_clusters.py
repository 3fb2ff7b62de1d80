from hypothesis import given
from hypothesis import strategies as st

from openledger.attribution.credit.clusters import cluster
from tests.attribution.releases import some_text


def groups(numbers: list[int]) -> set[frozenset[int]]:
    return {
        frozenset(i for i, number in enumerate(numbers) if number == wanted)
        for wanted in set(numbers)
    }


def test_different_texts_stand_alone() -> None:
    assert cluster([some_text(1), some_text(2), some_text(3)]) == [0, 1, 2]


def test_copies_and_near_copies_share_a_cluster() -> None:
    text = some_text(1, words=60)
    near = text.replace(text[40:44], "zzzz", 1)
    spaced = text.replace(" ", "\n  ")

    assert cluster([text, some_text(2), near, spaced, text]) == [0, 1, 0, 0, 0]


def test_a_part_joins_the_whole_whichever_came_first() -> None:
    whole = some_text(1, words=80)
    part = whole[: len(whole) // 3]

    assert cluster([part, whole]) == [0, 0]
    assert cluster([whole, part]) == [0, 0]


def test_a_chain_of_halves_does_not_creep_into_one_cluster() -> None:
    pieces = [some_text(i, words=40) for i in range(6)]
    chain = [pieces[i] + pieces[i + 1] for i in range(5)]

    assert len(set(cluster(chain))) > 2


def test_a_header_in_every_document_is_no_likeness() -> None:
    header = some_text(99, words=40)
    texts = [header + some_text(i, words=30) for i in range(20)]

    assert cluster(texts) == list(range(20))


def test_many_near_copies_are_one_cluster_and_no_boilerplate() -> None:
    text = some_text(1, words=60)
    copies = [text[: 10 + i] + "#" + text[10 + i :] for i in range(40)]

    assert set(cluster(copies)) == {0}


def test_past_the_limit_texts_join_the_nearest() -> None:
    texts = [some_text(i, words=40) for i in range(5)]
    found = cluster([*texts, texts[0][:40] + texts[4]], most=3)

    assert len(set(found)) == 3


def test_an_empty_text_is_a_document_like_another() -> None:
    assert cluster(["", some_text(1), ""]) == [0, 1, 0]


@given(st.permutations(list(range(8))))
def test_clusters_do_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    base = [some_text(i, words=30) for i in range(5)]
    texts = [*base, base[0] + base[1], base[2][:60], base[3] + "x"]
    straight = groups(cluster(texts))

    shuffled = cluster([texts[i] for i in order])

    assert {frozenset(order[i] for i in group) for group in groups(shuffled)} == straight
