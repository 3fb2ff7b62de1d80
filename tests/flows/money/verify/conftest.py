"""One release that was really trained, one call that was really attributed: all a checker gets."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from openledger.core.ids import parse_release_name
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.request import CallRequest
from openledger.flows.money.verify.bundle import Anchors
from openledger.lm.base import BaseModel, load_base
from openledger.storage.records.model import releases
from openledger.web.operations import epochs, exports, models, receipts
from openledger.web.operations.exports import NewExport
from openledger.web.operations.models import NewRelease, NewRun
from openledger.web.operations.receipts import ShowReceipt
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform
from tests import market as fair

NAME = "openledger/audited"
PROMPT = "X:1\nT:The Open Door\n"


class Files(msgspec.Struct, frozen=True):
    """What a party takes to another machine; the base model besides."""

    public: bytes
    private: bytes
    full: bytes  # with all rows
    drawn: bytes  # with the rows of two clusters
    free: bytes  # of a call that broke
    export: Path
    texts: Path  # an export with the training texts
    anchors: Anchors
    base: Path


@pytest.fixture(scope="session")
def files(market_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    root = tmp_path_factory.mktemp("audited")
    with fair.open_copy(market_home, root / "home") as platform:
        yield _made(platform, root)


def _made(platform: Platform, root: Path) -> Files:
    models.start(platform, NewRun((fair.DATANET,), "audited", "audited"))
    worker_of(platform).drain()
    models.publish(platform, NewRelease("audited", NAME))
    wanted = CallRequest(fair.payer(platform).address, NAME, PROMPT, max_tokens=24)
    made = answer.start(platform.models.desk, wanted)
    list(made)
    worker_of(platform).drain()
    receipt = made.result().receipt_id
    platform.settle.run()
    exports.export(platform, NewExport(NAME, str(root / "export")))
    exports.export(platform, NewExport(NAME, str(root / "texts"), has_texts=True))

    def shown(**changes: object) -> bytes:
        return receipts.show(platform, msgspec.structs.replace(ShowReceipt(receipt), **changes)).bundle

    return Files(
        public=shown(),
        private=shown(is_private=True),
        full=shown(is_private=True, rows=10_000),
        drawn=shown(rows=2, draw="mine"),
        free=b"",
        export=root / "export",
        texts=root / "texts",
        anchors=epochs.show(platform, epochs.Which()).anchors,
        base=platform.models.base_folder,
    )
