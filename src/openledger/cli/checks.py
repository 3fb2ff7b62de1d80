"""What checking receipts needs of this machine: files, and the base model from its cache."""

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.core.types import Precision
from openledger.flows.money.verify.anchors import Anchors, read_anchors
from openledger.flows.money.verify.bundle import Bundle, Report, read_bundle
from openledger.flows.money.verify.public import verify_bundle

if TYPE_CHECKING:
    from openledger.cli.receipt import Level
    from openledger.flows.money.verify.audit import Audit, Retraining
    from openledger.flows.money.verify.export import Export
    from openledger.lm.base import BaseModel
    from openledger.settings import Settings

_TALK_EVERY = 20  # steps


class Checker:
    """Checks bundles with what its user named on the command line."""

    def __init__(
        self,
        settings: "Settings",
        anchors: Path | None,
        releases: Sequence[Path],
        base: Path | None,
        parents: Sequence[Path] = (),
    ) -> None:
        self._settings = settings
        self._anchors: Anchors | None = read_anchors(_read(anchors)) if anchors else None
        self._releases = releases
        self._base = base
        self._parents = parents  # exports of what a release was merged from

    def check(self, file: Path, level: "Level") -> Report:
        """Check one bundle to a level below 3.

        Raises:
            VerificationError: it does not hold.
        """
        from openledger.cli.receipt import Level

        raw = _read(file)
        report = verify_bundle(raw, self._anchors)
        if level is Level.FULL:
            return self._full(report, read_bundle(raw))
        if level is Level.MODEL:
            return self._model(report, read_bundle(raw))
        return report

    def audit(
        self, files: Sequence[Path], choice: "Retraining", talk: Callable[[str], None]
    ) -> "Audit":
        """Retrain for some bundles of one release.

        Raises:
            VerificationError: one of them does not hold.
        """
        from openledger.flows.money.verify.audit import audit

        bundles = []
        for file in files:
            raw = _read(file)
            verify_bundle(raw, self._anchors)
            bundles.append(read_bundle(raw))
        exports = [export for bundle in bundles for export in self._exports(bundle)]

        @cache
        def load(precision: "Precision") -> "BaseModel":
            return self._loaded(exports[0], precision)

        def tell(done: int, total: int) -> None:
            if done % _TALK_EVERY == 0 or done == total:
                talk(f"step {done} of {total}")

        with tempfile.TemporaryDirectory(prefix="openledger-audit-") as scratch:
            return audit(bundles, exports[0], load, choice, Path(scratch), tell)

    def _full(self, report: Report, bundle: Bundle) -> Report:
        from openledger.flows.money.verify.full import LEVEL, verify_full
        from openledger.flows.money.verify.recompute import exported_state

        states = {}
        if self._releases:
            for export in self._exports(bundle):
                states[export.body.release.number] = exported_state(bundle, export)
        return report.raised(LEVEL, verify_full(bundle, self._anchors, states))

    def _model(self, report: Report, bundle: Bundle) -> Report:
        from openledger.flows.money.verify.recompute import LEVEL, recompute

        exports = self._exports(bundle)

        @cache
        def load(precision: "Precision") -> "BaseModel":
            return self._loaded(exports[0], precision)

        found = recompute(bundle, exports, load)
        apart = msgspec.structs.replace(
            report, distance_ppb=found.distance_ppb, differences=found.differences
        )
        return apart.raised(LEVEL, (found.check, *self._merged(bundle, exports, load)))

    def _merged(
        self,
        bundle: Bundle,
        exports: Sequence["Export"],
        load: Callable[["Precision"], "BaseModel"],
    ) -> list[str]:
        from openledger.flows.money.verify.recompute import exported_state, remerge

        if not self._parents:
            return []
        base = load(bundle.receipt.statement.body.precision)
        states = [(one, exported_state(bundle, one)) for one in exports]
        merges = [(one, state) for one, state in states if state.manifest.commitment.parents]
        return [remerge(*one, self._parents, base, self._anchors) for one in merges or states]

    def _exports(self, bundle: Bundle) -> list["Export"]:
        from openledger.flows.money.verify.export import open_export

        if not self._releases:
            raise InvalidInputError(
                "this level needs the release: name the folder of `model export` with --release"
            )
        return [open_export(one, bundle.receipt, self._anchors) for one in self._releases]

    def _loaded(self, export: "Export", precision: "Precision") -> "BaseModel":
        from openledger.flows.money.verify.recompute import find_base

        cache = Path(self._settings.home.cache).expanduser() / "models"
        cached = sorted(cache.iterdir()) if cache.is_dir() else []
        folders = cached if self._base is None else [self._base]
        return find_base(export.body.release.base, folders, precision)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    return path.read_bytes()
