"""Model and text give the signed shares again; other models, texts and methods do not."""

import shutil
from pathlib import Path

import msgspec
import pytest

from openledger.core.errors import (
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    VerificationError,
)
from openledger.core.types import Digest, Precision, Share
from openledger.flows.money.verify.bundle import Bundle, read_bundle
from openledger.flows.money.verify.export import Export, open_export
from openledger.flows.money.verify.recompute import find_base, recompute
from openledger.lm.base import WEIGHTS, BaseModel
from openledger.lm.tiny import build_tiny
from openledger.settlement.receipt import NO_TRAINING_ROOT
from openledger.settlement.shares import (
    ADDED_TOLERANCE_MICRONATS,
    TOLERANCE_PPB,
    Attribution,
    combine,
)
from tests.audited import Files

pytestmark = pytest.mark.slow


@pytest.fixture
def export(audited: Files) -> Export:
    return open_export(audited.export, read_bundle(audited.private).receipt, audited.anchors)


def with_statement(bundle: Bundle, **changes: object) -> Bundle:
    body = msgspec.structs.replace(bundle.receipt.statement.body, **changes)
    statement = msgspec.structs.replace(bundle.receipt.statement, body=body)
    return msgspec.structs.replace(
        bundle, receipt=msgspec.structs.replace(bundle.receipt, statement=statement)
    )


def with_call(bundle: Bundle, **changes: object) -> Bundle:
    body = msgspec.structs.replace(bundle.receipt.call.body, **changes)
    call = msgspec.structs.replace(bundle.receipt.call, body=body)
    return msgspec.structs.replace(
        bundle, receipt=msgspec.structs.replace(bundle.receipt, call=call)
    )


def moved(bundle: Bundle, amount: int) -> Bundle:
    """So much of the first contributor's share given to nobody."""
    signed = bundle.receipt.statement.body.attribution
    first, *others = signed.shares
    less = Share(first.account, first.weight_ppb - amount)
    return with_statement(
        bundle, attribution=Attribution((less, *others), signed.nobody_ppb + amount)
    )


def test_the_same_machine_makes_the_same_shares(
    audited: Files, export: Export, base: BaseModel
) -> None:
    found = recompute(read_bundle(audited.private), [export], lambda _: base)

    assert read_bundle(audited.private).receipt.statement.body.attribution.shares
    assert (found.distance_ppb, found.differences) == (0, ())


def test_the_precision_that_the_statement_names_is_the_only_one_tried(
    audited: Files, export: Export, base: BaseModel
) -> None:
    bundle = read_bundle(audited.private)
    loaded: list[Precision] = []

    def load(precision: Precision) -> BaseModel:
        loaded.append(precision)
        return base

    recompute(bundle, [export], load)
    recompute(with_statement(bundle, precision="bfloat16"), [export], load)
    with pytest.raises(VerificationError, match="lie"):
        recompute(moved(bundle, 90_000_000), [export], load)

    assert loaded == ["float32", "bfloat16", "float32"]


@pytest.fixture
def exports(audited: Files) -> list[Export]:
    receipt = read_bundle(audited.mixed).receipt
    return [open_export(one, receipt, audited.anchors) for one in (audited.other, audited.export)]


def adding(bundle: Bundle, place: int, micronats: int) -> Bundle:
    """As if one member had added so much more to the answer, and the shares followed."""
    members = [*bundle.receipt.statement.body.members]
    added = members[place].leave_one_out_micronats + micronats
    members[place] = msgspec.structs.replace(members[place], leave_one_out_micronats=added)
    return with_statement(bundle, members=tuple(members), attribution=combine(members))


def test_an_answer_of_a_mix_is_made_again_from_all_its_releases(
    audited: Files, exports: list[Export], base: BaseModel
) -> None:
    bundle = read_bundle(audited.mixed)
    members = bundle.receipt.statement.body.members

    found = recompute(bundle, exports, lambda _: base)

    assert len({one.leave_one_out_micronats for one in members}) == 2
    assert (found.distance_ppb, found.differences) == (0, ())
    with pytest.raises(VerificationError, match="lie"):
        recompute(moved(bundle, 2 * TOLERANCE_PPB), exports, lambda _: base)


@pytest.mark.parametrize("place", [0, 1])
def test_what_a_member_added_is_held_to_what_it_adds_here(
    audited: Files, exports: list[Export], base: BaseModel, place: int
) -> None:
    bundle = read_bundle(audited.mixed)
    most = ADDED_TOLERANCE_MICRONATS * bundle.receipt.call.body.output_tokens

    for honest in (-most, most):
        found = recompute(adding(bundle, place, honest), exports, lambda _: base)
        assert found.distance_ppb == 0
    for false in (-most - 1, most + 1):
        with pytest.raises(VerificationError, match=f"were signed; .* at most {most}"):
            recompute(adding(bundle, place, false), exports, lambda _: base)


def test_every_release_of_a_mix_is_needed(audited: Files, export: Export, base: BaseModel) -> None:
    bundle = read_bundle(audited.private)
    (member,) = bundle.receipt.call.body.mix
    other = msgspec.structs.replace(member, release=99, name="some/other@1")
    unknown = msgspec.structs.replace(other, training_root=NO_TRAINING_ROOT)

    with pytest.raises(InvalidInputError, match="some/other@1 answered, too"):
        recompute(with_call(bundle, mix=(member, other)), [export], lambda _: base)
    with pytest.raises(InvalidInputError, match=r"some/other@1 came without .* level full"):
        recompute(with_call(bundle, mix=(member, unknown)), [export], lambda _: base)


def test_the_early_adapter_is_needed_as_it_was(
    audited: Files, base: BaseModel, tmp_path: Path
) -> None:
    bundle = read_bundle(audited.private)
    copy = Path(shutil.copytree(audited.export, tmp_path / "copy"))
    export = msgspec.structs.replace(
        open_export(copy, bundle.receipt, audited.anchors), folder=copy
    )
    shutil.rmtree(copy / "early")
    shutil.copytree(copy / "adapter", copy / "early")

    with pytest.raises(DigestMismatchError):
        recompute(bundle, [export], lambda _: base)


def test_shares_are_accepted_up_to_half_a_point_and_no_further(
    audited: Files, export: Export, base: BaseModel
) -> None:
    bundle = read_bundle(audited.private)
    account = bundle.receipt.statement.body.attribution.shares[0].account

    found = recompute(moved(bundle, TOLERANCE_PPB), [export], lambda _: base)

    assert found.distance_ppb == TOLERANCE_PPB
    assert [(one.account, one.weight_ppb) for one in found.differences] == [
        (account, TOLERANCE_PPB)
    ]
    with pytest.raises(VerificationError, match=f"at most {TOLERANCE_PPB}"):
        recompute(moved(bundle, TOLERANCE_PPB + 1), [export], lambda _: base)


def test_a_free_call_needs_no_model(audited: Files, export: Export, base: BaseModel) -> None:
    found = recompute(read_bundle(audited.free), [export], lambda _: base)

    assert "nothing was to be scored: free" in found.check


def test_the_text_must_be_opened(audited: Files, export: Export, base: BaseModel) -> None:
    with pytest.raises(VerificationError, match="receipt show --private"):
        recompute(read_bundle(audited.public), [export], lambda _: base)
    bundle = read_bundle(audited.private)
    openings = tuple(
        msgspec.structs.replace(one, value="x y") if one.name == "prompt" else one
        for one in bundle.openings
    )
    with pytest.raises(VerificationError, match="no list of token ids"):
        recompute(msgspec.structs.replace(bundle, openings=openings), [export], lambda _: base)


def test_another_method_is_refused_and_says_so(
    audited: Files, export: Export, base: BaseModel
) -> None:
    other = with_call(read_bundle(audited.private), method=77)

    with pytest.raises(InvalidInputError, match=r"method 77.*check it to level 1"):
        recompute(other, [export], lambda _: base)


def test_the_base_is_found_by_its_digest(audited: Files, export: Export, tmp_path: Path) -> None:
    wanted = export.body.release.base
    build_tiny(tmp_path / "other", seed=1)
    (tmp_path / "nothing").mkdir()
    folders = [tmp_path / "nothing", tmp_path / "other"]

    assert find_base(wanted, [*folders, audited.base], "float32").digest == wanted
    assert find_base(wanted, folders, "float32").digest == wanted  # the tiny one can be made
    with pytest.raises(NotFoundError, match="--base"):
        find_base(Digest("1" * 64), folders, "float32")


def test_an_altered_base_is_refused(audited: Files, export: Export, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(audited.base, tmp_path / "copy"))
    raw = bytearray((copy / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (copy / WEIGHTS).write_bytes(raw)

    with pytest.raises(DigestMismatchError, match="was altered"):
        find_base(export.body.release.base, [copy], "float32")
