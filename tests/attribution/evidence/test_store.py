from pathlib import Path

import numpy as np
import pytest

from openledger.attribution.evidence.store import (
    EvidenceManifest,
    EvidencePart,
    object_of,
    pack,
    read_manifest,
    unpack_all,
    write_manifest,
)
from openledger.core.errors import DigestMismatchError
from openledger.core.types import Digest

ADAPTER = Digest("a" * 64)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    part = EvidencePart(3, 10, (10, 12), Digest("b" * 64))
    manifest = EvidenceManifest(ADAPTER, Digest("5" * 64), 40, (7, 9), (part,))
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, manifest)

    assert read_manifest(tmp_path) == manifest


def test_codes_come_back_in_the_order_of_their_parts() -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(4, 3)

    np.testing.assert_array_equal(unpack_all([pack(codes[:1]), pack(codes[1:])], 4), codes)
    assert unpack_all([], 0).shape == (0, 0)


def test_codes_that_were_cut_are_refused() -> None:
    with pytest.raises(DigestMismatchError, match="not of 4 rows"):
        unpack_all([b"x" * 11], 4)


def test_each_release_has_a_name_of_its_own_for_a_contribution() -> None:
    assert object_of("c1", ADAPTER) != object_of("c1", Digest("b" * 64))
