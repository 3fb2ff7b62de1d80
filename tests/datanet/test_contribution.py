from hashlib import sha256

import msgspec
import pytest

from openledger.core.errors import (
    DigestMismatchError,
    DuplicateError,
    InvalidInputError,
    NotAllowedError,
)
from openledger.core.types import Digest
from openledger.datanet.clean import Drop, Reason
from openledger.datanet.contribution import (
    Config,
    Prepared,
    Secrets,
    commitment,
    files_digest,
    prepare,
    verify,
)
from openledger.datanet.duplicates import First, Known
from openledger.datanet.extract import File
from openledger.datanet.manifest import read_manifest, write_manifest
from openledger.datanet.rules import Rules, rules_digest
from openledger.datanet.sources import tiny

RULES = Rules("folk-music", "Tunes.", (tiny.LICENCE,))
SECRETS = Secrets(salt=bytes(range(32)), network_key=bytes(32))
FILES = [one.as_file() for one in tiny.contributors()]


def nothing_known(mark: Digest) -> First | None:
    return None


def prepared(*files: File, known: Known = nothing_known, licence: str = tiny.LICENCE) -> Prepared:
    return prepare(files, licence, RULES, SECRETS, known, Config())


def test_a_tune_file_becomes_one_chunk_a_tune() -> None:
    result = prepared(FILES[0])

    assert [chunk.document for chunk in result.chunks] == [0, 1, 2, 3, 4]
    assert result.manifest.report == ()
    assert result.manifest.rules == rules_digest(RULES)
    assert result.manifest.files == files_digest([FILES[0]])
    assert result.manifest.documents[0].contributor == "Contributor One"


def test_the_result_is_the_same_each_time_and_holds() -> None:
    result = prepared(*FILES)

    assert result == prepared(*FILES)
    verify(read_manifest(write_manifest(result.manifest)), result.chunks)


def test_a_changed_or_moved_chunk_does_not_hold() -> None:
    result = prepared(*FILES)
    first, *rest = result.chunks
    for wrong in (
        msgspec.structs.replace(first, text=first.text + " "),
        msgspec.structs.replace(first, document=1),
        msgspec.structs.replace(first, digest=rest[0].digest),
    ):
        with pytest.raises(DigestMismatchError, match="chunk 0"):
            verify(result.manifest, (wrong, *rest))


def test_the_commitment_hides_files_and_binds_names_and_order() -> None:
    salted = sha256(SECRETS.salt + bytes.fromhex(files_digest(FILES))).hexdigest()
    renamed = [msgspec.structs.replace(FILES[0], name="other"), *FILES[1:]]

    assert commitment(FILES, SECRETS.salt) == salted
    assert len({files_digest(FILES), files_digest(FILES[::-1]), files_digest(renamed)}) == 3


def test_what_was_contributed_before_is_refused_or_left_out() -> None:
    first = First("Contributor One", "1")
    index = dict.fromkeys(prepared(FILES[0]).fingerprints, first)

    with pytest.raises(DuplicateError, match="Contributor One"):
        prepared(FILES[0], known=index.get)
    both = prepared(FILES[0], FILES[1], known=index.get)
    assert [chunk.document for chunk in both.chunks] == [0, 1, 2, 3]
    assert len(both.manifest.documents) == 4
    detail = "first by Contributor One in contribution 1"
    assert both.manifest.report == (Drop(Reason.DUPLICATE, 5, detail),)
    verify(both.manifest, both.chunks)


def test_documents_under_other_licences_are_left_out_and_reported() -> None:
    file = File("a.jsonl", b'{"text":"one","licence":"MIT"}\n{"text":"two"}\n')

    result = prepared(file)

    assert [chunk.text for chunk in result.chunks] == ["two"]
    assert result.manifest.report == (Drop(Reason.LICENCE, 1, "MIT"),)


def test_a_contribution_under_another_licence_is_refused() -> None:
    with pytest.raises(NotAllowedError, match="not MIT"):
        prepared(File("a.txt", b"text"), licence="MIT")


def test_nothing_to_contribute_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one file"):
        prepared()
    with pytest.raises(InvalidInputError, match="nothing is left"):
        prepared(File("a.jsonl", b'{"text":" "}'))
