import pytest

from bench.attribution.attacks.stage import divided
from openledger.core.types import PARTS_PER_BILLION, Account
from openledger.settlement.shares import ClusterScore, DocumentScore

OWNERS = [Account(f"0x{number:040x}") for number in range(3)]


def test_apart_from_gain_nobody_has_what_does_not_stand_above_the_floors() -> None:
    scores = ((40, 10), (25, 10), (9, 10))
    clusters = tuple(
        ClusterScore(place, score, floor, (DocumentScore(place, OWNERS[place], score),))
        for place, (score, floor) in enumerate(scores)
    )

    found = divided(clusters)

    parts = {share.account: share.weight_ppb / PARTS_PER_BILLION for share in found.shares}
    assert parts == pytest.approx({OWNERS[0]: 30 / 74, OWNERS[1]: 15 / 74})
