from openledger.datanet.abc_notation import MelodyIndex, SharedRun, melody, parse
from openledger.datanet.sources import tiny

HEAD = "X:1\nM:4/4\nL:1/8\nK:C\n"
ONE = parse(HEAD + "CDEF GABc|ceGc AFDB|c4 z4|")
OTHER = parse(HEAD + "C2G2 E2c2|A2F2 c2A2|G2B,2 D2G2|A2e2 c8|")


def test_a_melody_is_its_steps() -> None:
    assert melody(parse(HEAD + "CE z D|")) == (2, -1)


def test_a_transposed_copy_with_other_lengths_is_found() -> None:
    copy = parse(HEAD + "D2E2F2G2|A2B2c2d2|d2f2A2d2|B2G2E2c2|d8|")

    run = MelodyIndex([OTHER, ONE]).longest_run(copy)

    assert run == SharedRun(notes=17, share=1.0, source=1)


def test_part_of_a_tune_is_found_with_its_share() -> None:
    half = parse(HEAD + "CDEF GABc|ceG2 G4|" + "C8|G8|C8|E8|")

    run = MelodyIndex([ONE]).longest_run(half)

    assert run.notes == 11
    assert run.share == 11 / 16


def test_the_longest_of_several_runs_counts() -> None:
    assert MelodyIndex([ONE, ONE]).longest_run(ONE).source == 0


def test_a_tune_of_its_own_shares_nothing() -> None:
    assert MelodyIndex([ONE]).longest_run(OTHER) == SharedRun(0, 0.0, None)
    assert MelodyIndex([]).longest_run(parse(HEAD + "C8|")) == SharedRun(0, 0.0, None)


def test_the_share_of_copied_tunes_is_counted() -> None:
    index = MelodyIndex([ONE])

    assert index.share_copied([ONE, OTHER]) == 0.5
    assert index.share_copied([]) == 0.0


def test_the_tiny_sample_holds_no_copies() -> None:
    tunes = [parse(d.text) for one in tiny.contributors() for d in one.documents]

    for number, tune in enumerate(tunes):
        others = MelodyIndex(tunes[:number] + tunes[number + 1 :])
        assert others.share_copied([tune]) == 0.0
