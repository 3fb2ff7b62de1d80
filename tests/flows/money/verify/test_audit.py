"""Retraining by the anchored recipe: what it reports, and what it will not retrain."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from openledger.attribution.state import AttributionState, load_state, write_state
from openledger.core.encoding import encode
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Account
from openledger.flows.money.verify import audit as auditing
from openledger.flows.money.verify.audit import (
    Audit,
    Retraining,
    audit,
    rank_correlation,
    ranks,
    the_only_member,
)
from openledger.flows.money.verify.bundle import BUNDLE_VERSION, Bundle, read_bundle
from openledger.flows.money.verify.export import PLAN, TEXTS, Export, Texts, open_export, read_plan
from openledger.flows.money.verify.recompute import attribute_again, exported_state
from openledger.lm.base import BaseModel
from openledger.settlement.receipt import Receipt, make_statement
from openledger.settlement.shares import TOLERANCE_PPB, Attribution, combine
from tests.audited import Files
from tests.settlement import ledger

pytestmark = pytest.mark.slow


@pytest.fixture
def export(audited: Files) -> Export:
    return open_export(audited.texts, read_bundle(audited.private).receipt, audited.anchors)


def retrained(audited: Files, export: Export, base: BaseModel, folder: Path) -> Audit:
    steps: list[tuple[int, int]] = []
    found = audit(
        [read_bundle(audited.private)],
        export,
        lambda _: base,
        Retraining(2, 2),
        folder,
        lambda done, total: steps.append((done, total)),
    )
    assert steps[-1][0] == steps[-1][1] == len(steps)
    return found


def test_an_audit_reports_effects_beside_shares(
    audited: Files, export: Export, base: BaseModel, tmp_path: Path
) -> None:
    found = retrained(audited, export, base, tmp_path)
    shares = {
        share.account: share.weight_ppb
        for share in read_bundle(audited.private).receipt.statement.body.attribution.shares
    }

    assert found.trainings == 2 * (1 + 2)
    assert len(found.effects) == 2
    assert all(one.share_ppb == shares.get(one.account, 0) for one in found.effects)
    assert all(one.effect_micronats for one in found.effects)  # their signs are chance
    assert 0 <= found.total_variation <= 1
    assert found.rebuilt_ppb == 0
    assert found.credited_otherwise == 0
    assert found.half is None
    assert list(tmp_path.iterdir()) == []  # no cache is left that tells the texts


def test_an_effect_is_what_the_answer_loses_without_the_contributor(
    audited: Files,
    export: Export,
    base: BaseModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given losses: with so few seeds, those of a real retraining have their sign by chance."""
    losses = torch.tensor([[1.0], [1.5], [0.75], [2.0], [3.0], [1.75]])  # two seeds of all, and two
    monkeypatch.setattr(auditing, "answer_losses", lambda *_: losses)

    found = retrained(audited, export, base, tmp_path)

    by_share = sorted(found.effects, key=lambda one: -one.share_ppb)
    assert [one.effect_micronats for one in by_share] == [750_000, -250_000]
    assert found.rank_correlation == pytest.approx(1)


def test_rows_that_were_not_made_from_the_texts_are_seen(
    audited: Files, export: Export, base: BaseModel, tmp_path: Path
) -> None:
    """A builder gives a friend the rows of whoever earns most; all sums and digests are right."""
    bundle = read_bundle(audited.private)
    folder = Path(shutil.copytree(export.folder, tmp_path / "copy"))
    forged = favoured(exported_state(bundle, export), bundle, folder / "attribution")
    release = msgspec.structs.replace(export.body.release, training_root=forged.training_root)
    false = Export(folder, msgspec.structs.replace(export.body, release=release))
    forged_states = {release.number: exported_state(bundle, false)}
    paid = combine(attribute_again(bundle, [false], forged_states, base))

    found = audit([stating(bundle, paid)], false, lambda _: base, Retraining(2, 1), tmp_path)

    assert found.rebuilt_ppb > 2 * TOLERANCE_PPB


def favoured(state: AttributionState, bundle: Bundle, folder: Path) -> AttributionState:
    shares = bundle.receipt.statement.body.attribution.shares
    first = max(shares, key=lambda one: one.weight_ppb).account
    alone = [entry for entry in state.manifest.documents if entry.row is None]
    theirs = [entry for entry in alone if entry.account == first]
    best = max((state.manifest.clusters[one.cluster] for one in theirs), key=lambda c: c.energy)
    friends = {entry.cluster for entry in alone if entry.account != first}
    clusters = state.rows.clusters.copy()
    clusters[[*friends]] = clusters[best.cluster]
    replace = msgspec.structs.replace
    manifest = replace(
        state.manifest,
        documents=tuple(
            replace(one, energy=best.energy) if one in alone and one.cluster in friends else one
            for one in state.manifest.documents
        ),
        clusters=tuple(
            replace(best, cluster=one.cluster) if one.cluster in friends else one
            for one in state.manifest.clusters
        ),
    )
    write_state(folder, state.whitener, manifest, replace(state.rows, clusters=clusters))
    return load_state(folder)


def stating(bundle: Bundle, attribution: Attribution) -> Bundle:
    replace, receipt = msgspec.structs.replace, bundle.receipt
    body = replace(receipt.statement.body, attribution=attribution)
    statement = replace(receipt.statement, body=body)
    return replace(bundle, receipt=replace(receipt, statement=statement))


def test_texts_that_were_not_trained_on_are_not_retrained(
    audited: Files, export: Export, base: BaseModel, tmp_path: Path
) -> None:
    """The training root knows whose each text is: an export cannot name another owner."""
    examples = export.texts()
    thief = Account("0x" + "9" * 40)
    stolen = tuple(msgspec.structs.replace(one, account=thief) for one in examples)
    folder = Path(shutil.copytree(export.folder, tmp_path / "copy"))
    (folder / TEXTS).write_bytes(encode(Texts(stolen)))
    forged = Export(folder, export.body)

    assert forged.texts() == stolen  # digests alone do not tell it
    with pytest.raises(VerificationError, match="under the training root"):
        retrained(audited, forged, base, tmp_path)


def test_an_audit_has_something_to_compare() -> None:
    for leave_outs, seeds in ((1, 1), (2, 0)):
        with pytest.raises(InvalidInputError, match="at least 2"):
            Retraining(leave_outs, seeds)


def test_an_answer_without_tokens_has_no_effects(
    audited: Files, export: Export, base: BaseModel, tmp_path: Path
) -> None:
    bundle = read_bundle(audited.private)
    openings = tuple(
        msgspec.structs.replace(one, value="") if one.name == "answer" else one
        for one in bundle.openings
    )
    empty = msgspec.structs.replace(bundle, openings=openings)

    with pytest.raises(InvalidInputError, match="no token"):
        audit([empty], export, lambda _: base, Retraining(), tmp_path)


def test_a_plan_that_is_none_is_refused(export: Export, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export.folder, tmp_path / "copy"))
    for raw in (b"{}", b"x"):
        (folder / PLAN).write_bytes(raw)
        with pytest.raises(VerificationError, match="no plan"):
            read_plan(folder)


def test_ranks_of_equal_values_are_shared() -> None:
    one, other = np.array([1.0, 2.0, 2.0, 4.0]), np.array([2.0, 5.0, 5.0, 9.0])

    assert ranks(one).tolist() == [0.0, 1.5, 1.5, 3.0]
    assert rank_correlation(one, other) == pytest.approx(1.0)
    assert rank_correlation(one, -other) == pytest.approx(-1.0)
    assert rank_correlation(one, np.ones(4)) is None


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
