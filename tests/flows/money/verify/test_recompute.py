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
from openledger.flows.money.verify.bundle import BUNDLE_VERSION, Bundle, read_bundle
from openledger.flows.money.verify.export import Export, open_export
from openledger.flows.money.verify.recompute import find_base, recompute, the_only_member
from openledger.lm.base import WEIGHTS, BaseModel
from openledger.lm.tiny import build_tiny
from openledger.settlement.receipt import Receipt, make_statement
from openledger.settlement.shares import TOLERANCE_PPB, Attribution
from tests.audited import Files
from tests.settlement import ledger

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
    found = recompute(read_bundle(audited.private), export, lambda _: base)

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

    recompute(bundle, export, load)
    recompute(with_statement(bundle, precision="bfloat16"), export, load)
    with pytest.raises(VerificationError, match="lie"):
        recompute(moved(bundle, 90_000_000), export, load)

    assert loaded == ["float32", "bfloat16", "float32"]


def test_an_answer_of_several_releases_is_refused_and_says_so(
    audited: Files, export: Export, base: BaseModel
) -> None:
    bundle = read_bundle(audited.private)
    (member,) = bundle.receipt.call.body.mix

    with pytest.raises(InvalidInputError, match=r"2 releases .* level full"):
        recompute(with_call(bundle, mix=(member, member)), export, lambda _: base)


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
        recompute(bundle, export, lambda _: base)


def test_shares_are_accepted_up_to_half_a_point_and_no_further(
    audited: Files, export: Export, base: BaseModel
) -> None:
    bundle = read_bundle(audited.private)
    account = bundle.receipt.statement.body.attribution.shares[0].account

    found = recompute(moved(bundle, TOLERANCE_PPB), export, lambda _: base)

    assert found.distance_ppb == TOLERANCE_PPB
    assert [(one.account, one.weight_ppb) for one in found.differences] == [
        (account, TOLERANCE_PPB)
    ]
    with pytest.raises(VerificationError, match=f"at most {TOLERANCE_PPB}"):
        recompute(moved(bundle, TOLERANCE_PPB + 1), export, lambda _: base)


def test_a_free_call_needs_no_model(audited: Files, export: Export, base: BaseModel) -> None:
    found = recompute(read_bundle(audited.free), export, lambda _: base)

    assert "nothing was to be scored: free" in found.check


def test_the_text_must_be_opened(audited: Files, export: Export, base: BaseModel) -> None:
    with pytest.raises(VerificationError, match="receipt show --private"):
        recompute(read_bundle(audited.public), export, lambda _: base)
    bundle = read_bundle(audited.private)
    openings = tuple(
        msgspec.structs.replace(one, value="x y") if one.name == "prompt" else one
        for one in bundle.openings
    )
    with pytest.raises(VerificationError, match="no list of token ids"):
        recompute(msgspec.structs.replace(bundle, openings=openings), export, lambda _: base)


def test_another_method_is_refused_and_says_so(
    audited: Files, export: Export, base: BaseModel
) -> None:
    other = with_call(read_bundle(audited.private), method=77)

    with pytest.raises(InvalidInputError, match=r"method 77.*check it to level 1"):
        recompute(other, export, lambda _: base)


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


def test_a_release_at_another_weight_is_no_release_alone() -> None:
    """Its state says what it did at weight 1."""
    half = msgspec.structs.replace(ledger.MIX[0], weight_ppb=500_000_000)
    for mix, message in (
        ((half,), "bob/tunes@1 gave this answer at another weight than 1"),
        ((half, msgspec.structs.replace(half, release=2)), "2 releases gave this answer together"),
    ):
        call = ledger.call(None, mix=mix)
        statement = make_statement(
            ledger.DOMAIN, call, "float32", ledger.scores(), ledger.ROLES, ledger.GATEWAY_KEY
        )
        with pytest.raises(InvalidInputError, match=message):
            the_only_member(Bundle(BUNDLE_VERSION, Receipt(call, statement), None, None))
