from openledger.datanet.extract import Document
from openledger.datanet.sources import tiny
from openledger.datanet.sources.contributors import SourceContributor
from openledger.datanet.sources.selection import Sizes, estimate_tokens, pick

SIZES = Sizes(training_tokens=400, held_out_tokens=200)


def people() -> list[SourceContributor]:
    def document(name: str, number: int) -> Document:
        return Document("t", "x" * 10, "MIT", f"key {name} {number}", f"{name}#{number}", name)

    counts = {"Ann": 100, "Ben": 25, "Cid": 4, "Dot": 1}
    return [
        SourceContributor(name, tuple(document(name, number) for number in range(count)))
        for name, count in counts.items()
    ]


def test_everybody_has_a_part_by_the_root_of_what_they_hold() -> None:
    picked = pick(people(), SIZES, count=len)

    counts = {one.name: len(one.documents) for one in picked.training}
    assert counts == {"Ann": 22, "Ben": 11, "Cid": 4, "Dot": 1}
    assert picked.training_tokens == 380


def test_held_out_is_large_enough_and_shares_no_key() -> None:
    picked = pick(people(), SIZES, count=len)

    training = {d.key for one in picked.training for d in one.documents}
    assert picked.held_out_tokens >= 200
    assert not training & {d.key for d in picked.held_out}


def test_the_choice_does_not_depend_on_the_order_given() -> None:
    assert pick(people(), SIZES, count=len) == pick(people()[::-1], SIZES, count=len)


def test_a_key_is_taken_once_and_refused_documents_are_passed_over() -> None:
    twins = Document("t", "x" * 10, "MIT", "twin", "a", "Ann")
    others = [twins, Document("t", "y" * 10, "MIT", "twin", "b", "Ann")]

    picked = pick([SourceContributor("Ann", tuple(others))], SIZES, count=len)
    assert len(picked.training[0].documents) == 1
    assert picked.held_out == ()

    none = pick(people(), SIZES, count=len, accept=lambda document: False)
    assert none.training == ()


def test_the_tiny_sample_splits_as_well() -> None:
    picked = pick(tiny.contributors(), Sizes(training_tokens=300, held_out_tokens=60))

    assert len(picked.training) == 4
    assert picked.held_out
    assert estimate_tokens("x" * 147) == 100


def test_few_contributors_who_wrote_most_and_briefly_enough() -> None:
    """Pages of a manual are long: one of everybody's would be far more than was asked for."""

    def page(name: str, number: int, size: int) -> Document:
        return Document("t", "x" * size, "MIT", f"{name} {number}", f"{name}#{number}", name)

    writers = {"Ann": [90, 400, 500], "Ben": [80, 300], "Cid": [70], "Dot": [900, 2_000]}
    everyone = [
        SourceContributor(name, tuple(page(name, i, size) for i, size in enumerate(sizes)))
        for name, sizes in writers.items()
    ]
    whole = pick(everyone, Sizes(200, 0), count=len)
    few = pick(everyone, Sizes(200, 0, contributors=2), count=len)

    assert whole.training_tokens == 90 + 80 + 70 + 900  # each one's shortest: none fits his part
    assert {one.name for one in few.training} == {"Ann", "Ben"}
    assert few.training_tokens == 90 + 80
