"""A release on another machine: each byte of the folder is held to the receipt and the chain."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openledger.core.encoding import decode, digest_of, encode
from openledger.core.errors import ConflictError, NotFoundError, VerificationError
from openledger.core.signing import Domain, sign_typed
from openledger.core.types import Digest
from openledger.flows.money.verify.bundle import read_bundle
from openledger.flows.money.verify.export import (
    EXPORT_VERSION,
    MANIFEST,
    PLAN,
    RELEASE,
    TEXTS,
    Export,
    ExportBody,
    ReleaseFolder,
    SignedExport,
    Texts,
    open_export,
    write_export,
)
from openledger.flows.money.verify.recompute import exported_state
from tests.audited import Files
from tests.flows.money.verify.alterations import altered_fields

pytestmark = pytest.mark.slow

FEW = 25  # flipped bytes of each file


@pytest.fixture
def folder(audited: Files, tmp_path: Path) -> Path:
    """A copy to be altered."""
    return Path(shutil.copytree(audited.texts, tmp_path / "copy"))


def check(audited: Files, folder: Path, *, is_anchored: bool = True) -> Export:
    receipt = read_bundle(audited.public).receipt
    return open_export(folder, receipt, audited.anchors if is_anchored else None)


def resigned(audited: Files, folder: Path, change: Callable[[ExportBody], ExportBody]) -> None:
    """As if the gateway itself had signed something else."""
    signed = decode((folder / RELEASE).read_bytes(), SignedExport)
    body = change(signed.body)
    call = read_bundle(audited.public).receipt.call.call
    head = ReleaseFolder(body.version, digest_of(body))
    signature = sign_typed(Domain(call.chain_id, call.escrow), head, audited.gateway_key)
    (folder / RELEASE).write_bytes(encode(SignedExport(body, signature)))


def relisted(folder: Path, path: str) -> Callable[[ExportBody], ExportBody]:
    """The listing of a folder in which this file was replaced."""
    from openledger.lm.base import digest_file

    def change(body: ExportBody) -> ExportBody:
        there = folder / path
        listed = tuple(
            msgspec.structs.replace(one, digest=digest_file(there), size_bytes=there.stat().st_size)
            if one.path == path
            else one
            for one in body.files
        )
        return msgspec.structs.replace(body, files=listed)

    return change


def test_an_export_holds_with_and_without_anchors(audited: Files) -> None:
    for folder in (audited.export, audited.texts):
        for is_anchored in (True, False):
            assert check(audited, folder, is_anchored=is_anchored).body.release.number > 1
    assert check(audited, audited.texts).texts()
    with pytest.raises(NotFoundError, match="--texts"):
        check(audited, audited.export).texts()


def test_no_byte_of_any_file_may_differ(audited: Files, folder: Path) -> None:
    draw = random.Random(5)
    tried = 0
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        raw = path.read_bytes()
        places = {0, len(raw) - 1} | {draw.randrange(len(raw)) for _ in range(FEW)}
        for place in places:
            altered = bytearray(raw)
            altered[place] ^= 1 << draw.randrange(8)
            path.write_bytes(altered)
            with pytest.raises(VerificationError):
                check(audited, folder, is_anchored=False)
            tried += 1
        path.write_bytes(raw)

    assert tried > 8 * FEW
    check(audited, folder)  # whole again


def test_no_field_of_the_release_may_differ(audited: Files, folder: Path) -> None:
    tried = 0
    for _, raw in altered_fields((folder / RELEASE).read_bytes()):
        (folder / RELEASE).write_bytes(raw)
        with pytest.raises(VerificationError):
            check(audited, folder, is_anchored=False)
        tried += 1

    assert tried > 30


def test_files_are_neither_missing_nor_added(audited: Files, folder: Path) -> None:
    (folder / "adapter" / "pickle.bin").write_bytes(b"x")
    with pytest.raises(VerificationError, match="not part of this export"):
        check(audited, folder)
    (folder / "adapter" / "pickle.bin").unlink()
    (folder / PLAN).unlink()
    with pytest.raises(VerificationError, match="is missing"):
        check(audited, folder)
    with pytest.raises(NotFoundError, match="no export"):
        check(audited, folder / "adapter")


@pytest.mark.parametrize(
    "field", ["base", "adapter", "training_root", "seed", "recipe", "manifest_root"]
)
def test_a_gateway_cannot_sign_another_release_than_the_chains(
    audited: Files, folder: Path, field: str
) -> None:
    def change(body: ExportBody) -> ExportBody:
        release = msgspec.structs.replace(body.release, **{field: Digest("1" * 64)})
        return msgspec.structs.replace(body, release=release)

    resigned(audited, folder, change)

    with pytest.raises(VerificationError):
        check(audited, folder)


def test_an_export_of_another_release_or_version_is_refused(audited: Files, folder: Path) -> None:
    replace = msgspec.structs.replace
    changes: dict[str, Callable[[ExportBody], ExportBody]] = {
        "version 2": lambda body: replace(body, version=EXPORT_VERSION + 1),
        "not the release that answered": lambda body: replace(
            body, release=replace(body.release, number=99)
        ),
        "is not the release of the receipt": lambda body: replace(body, name="me/other@1"),
        "holds no file": lambda body: replace(
            body, files=(*body.files, replace(body.files[0], path="../home/seed.json"))
        ),
    }
    raw = (folder / RELEASE).read_bytes()
    for said, change in changes.items():
        resigned(audited, folder, change)
        with pytest.raises(VerificationError, match=said):
            check(audited, folder)
        (folder / RELEASE).write_bytes(raw)


def test_a_gateway_cannot_sign_other_training_than_it_anchored(
    audited: Files, folder: Path
) -> None:
    for path in (PLAN, MANIFEST):
        raw = (folder / path).read_bytes()
        (folder / path).write_bytes(
            raw.replace(b'"epochs":16', b'"epochs":17').replace(b'"position":0', b'"position":9')
        )
        assert (folder / path).read_bytes() != raw
        resigned(audited, folder, relisted(folder, path))
        with pytest.raises(VerificationError, match="not the one that was anchored"):
            check(audited, folder)
        (folder / path).write_bytes(raw)
        resigned(audited, folder, relisted(folder, path))


def test_a_gateway_cannot_sign_other_rows_or_texts(audited: Files, folder: Path) -> None:
    rows = "attribution/rows.safetensors"
    raw = bytearray((folder / rows).read_bytes())
    raw[-1] ^= 1
    (folder / rows).write_bytes(raw)
    resigned(audited, folder, relisted(folder, rows))
    bundle = read_bundle(audited.full)
    with pytest.raises(VerificationError, match="altered"):
        exported_state(bundle, check(audited, folder))

    examples = decode((folder / TEXTS).read_bytes(), Texts).examples
    forged = msgspec.structs.replace(examples[0], text="X:1\nT:Forged\nK:C\nCCC|")
    (folder / TEXTS).write_bytes(encode(Texts((forged, *examples[1:]))))
    resigned(audited, folder, relisted(folder, TEXTS))
    with pytest.raises(VerificationError, match="training manifest"):
        check(audited, folder).texts()


def test_a_state_is_of_the_release_that_stands_on_chain(audited: Files, folder: Path) -> None:
    """A builder who measured with a seed of his own choice chose halves, labels and placebo."""
    bundle, export = read_bundle(audited.full), check(audited, folder)
    exported_state(bundle, export)
    for name in ("seed", "adapter", "base"):
        changed: dict[str, Any] = {name: Digest("0" * 64)}
        release = msgspec.structs.replace(export.body.release, **changed)
        other = Export(folder, msgspec.structs.replace(export.body, release=release))
        with pytest.raises(VerificationError, match="another base, adapter or seed"):
            exported_state(bundle, other)


def test_an_export_replaces_nothing(audited: Files) -> None:
    body = decode((audited.export / RELEASE).read_bytes(), SignedExport).body

    with pytest.raises(ConflictError, match="not an empty"):
        write_export(audited.export, body.name, body.release, {}, lambda _: "")
