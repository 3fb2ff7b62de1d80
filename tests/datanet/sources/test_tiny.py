from openledger.datanet.abc_notation import parse, share_of_full_bars
from openledger.datanet.rules import check_licence, check_rules
from openledger.datanet.sources import tiny


def test_the_sample_is_a_dozen_tunes_of_four_unequal_contributors() -> None:
    counts = [len(one.documents) for one in tiny.contributors()]

    assert sum(counts) == 12
    assert counts == sorted(set(counts), reverse=True)


def test_every_tune_of_the_sample_is_in_metre_and_has_its_own_key() -> None:
    documents = [d for one in tiny.contributors() for d in one.documents]

    assert all(share_of_full_bars(parse(d.text)) == 1.0 for d in documents)
    assert len({d.key for d in documents}) == 12
    assert len({d.origin for d in documents}) == 12
    assert {d.contributor for d in documents} == {one.name for one in tiny.contributors()}


def test_the_rules_make_sense_and_take_the_sample() -> None:
    check_rules(tiny.RULES)
    for contributor in tiny.contributors():
        for document in contributor.documents:
            check_licence(tiny.RULES, document.licence)
