from bench.attribution.attacks.stage import divided
from openledger.core.types import PARTS_PER_BILLION, Account
from openledger.settlement.shares import ClusterScore, DocumentScore

OWNERS = [Account(f"0x{number:040x}") for number in range(3)]


def test_apart_from_gain_all_of_an_answer_is_paid_to_whoever_stands_above_the_floor() -> None:
    scores = ((40, 10), (25, 10), (9, 10))
    clusters = tuple(
        ClusterScore(place, score, floor, (DocumentScore(place, OWNERS[place], score),))
        for place, (score, floor) in enumerate(scores)
    )

    found = divided(clusters)

    assert found.nobody_ppb == 0
    assert sum(share.weight_ppb for share in found.shares) == PARTS_PER_BILLION
    assert [share.account for share in found.shares] == OWNERS[:2]
