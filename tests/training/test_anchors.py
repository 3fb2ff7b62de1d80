from hashlib import sha256

from openledger.training.anchors import ANCHORS


def test_anchors_are_many_distinct_and_no_tunes() -> None:
    assert len(set(ANCHORS)) == len(ANCHORS) >= 30
    assert not any("K:" in text or "X:" in text for text in ANCHORS)
    assert all(30 < len(text) < 300 for text in ANCHORS)


def test_the_anchors_of_method_lora_1_never_change() -> None:
    digest = sha256("\n\n".join(ANCHORS).encode()).hexdigest()

    assert digest == "0fa3409c0fc0744d0207ca91728214ff064b63ba7bc8721b2db2af1fa3c54ff6"
