from pathlib import Path

import pytest

from bench.attribution.suites import SMOKE, SUITES, Draw, worlds_of


@pytest.mark.slow
@pytest.mark.e2e
def test_data_seeds_side_by_side_show_the_same(tmp_path: Path) -> None:
    retrainings = SUITES[SMOKE].retrainings
    together, apart = (
        worlds_of([Draw(SMOKE, tmp_path / name, seed, retrainings) for seed in (0, 1)], jobs)
        for name, jobs in (("together", 2), ("apart", 1))
    )

    assert [one.setting.queries for one in together] == [one.setting.queries for one in apart]
    for one, other in zip(together, apart, strict=True):
        assert (one.by_contributor.losses == other.by_contributor.losses).all()
        assert (one.left_out.losses == other.left_out.losses).all()
    assert together[0].setting.documents != together[1].setting.documents
