from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.core import merkle
from openledger.core.errors import DigestMismatchError, InvalidProofError, VerificationError
from openledger.core.types import Digest
from openledger.datanet.chunk import Chunk, text_digest
from openledger.datanet.clean import Drop, Reason
from openledger.datanet.extract import Document
from openledger.datanet.manifest import (
    Manifest,
    Origin,
    check_root,
    leaf_bytes,
    make_manifest,
    manifest_digest,
    prove_chunk,
    read_manifest,
    verify,
    verify_chunk,
    write_manifest,
)

SALT = bytes(range(32))
ORIGIN = Origin(Digest("a" * 64), Digest("b" * 64), SALT)
TEXTS = ("one", "zwei", "drei")


def manifest(texts: tuple[str, ...] = TEXTS, owners: tuple[int, ...] = (0, 2, 2)) -> Manifest:
    documents = [Document(f"T{i}", "", "MIT", f"k{i}", f"o{i}", "Ann", ("Ben",)) for i in range(3)]
    chunks = [
        Chunk(text, text_digest(text), owner) for text, owner in zip(texts, owners, strict=True)
    ]
    return make_manifest(documents, chunks, (Drop(Reason.EMPTY, 1),), ORIGIN)


def test_a_manifest_lists_chunks_and_the_documents_that_have_some() -> None:
    made = manifest()

    assert [(entry.title, entry.chunks) for entry in made.documents] == [("T0", 1), ("T2", 2)]
    assert made.size == 3
    assert made.size_bytes == 11
    assert made.salt == SALT.hex()


def test_a_leaf_is_what_the_module_says() -> None:
    leaf = sha256(SALT + sha256(b"one").digest() + b"\x00\x00\x00\x00").digest()

    assert leaf_bytes(SALT, text_digest("one"), 0) == leaf
    assert manifest(("one", "", ""), (0, 1, 2)).root == merkle.root(
        [leaf, *(leaf_bytes(SALT, text_digest(""), owner) for owner in (1, 2))]
    )


def test_a_manifest_survives_writing() -> None:
    assert read_manifest(write_manifest(manifest())) == manifest()
    assert manifest_digest(manifest()) == sha256(write_manifest(manifest())).hexdigest()


def test_other_bytes_are_no_manifest() -> None:
    with pytest.raises(VerificationError):
        read_manifest(write_manifest(manifest()) + b" ")
    changed = msgspec.structs.replace(manifest(), salt=bytes(32).hex())
    with pytest.raises(VerificationError, match="have the root"):
        read_manifest(write_manifest(changed))


def test_a_manifest_that_contradicts_itself_is_found() -> None:
    made = manifest()
    with pytest.raises(VerificationError, match="account for"):
        check_root(msgspec.structs.replace(made, chunks=made.chunks[:2]))
    with pytest.raises(VerificationError, match="malformed"):
        check_root(msgspec.structs.replace(made, chunks=(Digest("x"), *made.chunks[1:])))
    with pytest.raises(VerificationError, match="size in bytes"):
        verify(msgspec.structs.replace(made, size_bytes=12), TEXTS)


def test_documents_with_a_negative_count_are_found() -> None:
    made = manifest()
    first, second = made.documents
    entries = (
        msgspec.structs.replace(first, chunks=-1),
        msgspec.structs.replace(second, chunks=4),
    )
    with pytest.raises(VerificationError, match="account for"):
        check_root(msgspec.structs.replace(made, documents=entries))


def test_the_right_chunks_hold() -> None:
    verify(manifest(), TEXTS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("one", "zwei"), "2 chunks, not 3"),
        (("one", "zwei", "Drei"), "chunk 2"),
        (("zwei", "one", "drei"), "chunk 0"),
    ],
)
def test_other_chunks_do_not_hold(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(DigestMismatchError, match=message):
        verify(manifest(), texts)


def test_one_chunk_is_proved_by_itself() -> None:
    made = manifest()
    proof = prove_chunk(made, 1)

    verify_chunk(made, "zwei", proof)
    with pytest.raises(InvalidProofError):
        verify_chunk(made, "drei", proof)
    with pytest.raises(InvalidProofError):
        prove_chunk(made, 3)


def test_a_proof_of_another_tree_is_refused() -> None:
    proof = prove_chunk(manifest(), 1)
    for wrong in (
        msgspec.structs.replace(proof, size=4),
        msgspec.structs.replace(proof, index=3),
    ):
        with pytest.raises(InvalidProofError, match="tree of 3 chunks"):
            verify_chunk(manifest(), "zwei", wrong)


@settings(deadline=None)
@given(st.lists(st.text(max_size=9), min_size=1, max_size=9), st.data())
def test_any_manifest_proves_each_of_its_chunks(texts: list[str], data: st.DataObject) -> None:
    owners = sorted(
        data.draw(st.lists(st.integers(0, 2), min_size=len(texts), max_size=len(texts)))
    )
    made = manifest(tuple(texts), tuple(owners))

    verify(read_manifest(write_manifest(made)), texts)
    for index, text in enumerate(texts):
        verify_chunk(made, text, prove_chunk(made, index))
