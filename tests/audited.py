"""One release that was really trained, one call that was really attributed: all a checker gets."""

from pathlib import Path

import msgspec

from openledger.core.ids import parse_release_name
from openledger.core.types import ReceiptId
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.request import CallRequest, Decoding
from openledger.flows.money.verify.anchors import Anchors
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.epochs import WhichEpoch
from openledger.operations.models import NewExport, NewRelease, NewRun, OpeningList, WhichRelease
from openledger.operations.receipts import ShowReceipt
from openledger.storage.records.model import releases
from openledger.web.operations import epochs, exports, models, receipts
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform
from tests import market as fair

NAME = "openledger/audited"
OTHER = "openledger/other"
# Openings of tunes that the release was trained on: at least one answer owes something to them.
PROMPTS = [
    f"X:1\nT:{title}\nM:{metre}\nL:{length}\nK:{key}\n"
    for title, metre, length, key in (
        ("The Open Window", "4/4", "1/8", "G"),
        ("Rain at the Station", "6/8", "1/8", "D"),
        ("The Long Queue", "2/4", "1/16", "A"),
        ("Seven Steps Down", "4/4", "1/8", "Dm"),
        ("Borrowed Boots", "9/8", "1/8", "G"),
        ("The Patient Ferry", "6/8", "1/8", "A"),
    )
]


class Files(msgspec.Struct, frozen=True):
    """What a party takes to another machine; the base model besides."""

    public: bytes
    private: bytes
    full: bytes  # with all rows
    drawn: bytes  # with the rows of two clusters
    free: bytes  # of a call that broke, with vectors and rows: there are none
    export: Path
    texts: Path  # an export with the training texts
    mixed: bytes  # of an answer that this release and another gave together
    other: Path  # the other's export
    anchors: Anchors
    base: Path
    gateway_key: bytes
    state: Path  # where the attribution state lies in the home
    openings: OpeningList


def build_audited(platform: Platform, tokenizer: Tokenizer, root: Path) -> Files:
    """Train, publish, ask, attribute, settle and export in a copy of the market's home."""
    models.start(platform, NewRun((fair.DATANET,), "audited", "audited"))
    worker_of(platform).drain()
    models.publish(platform, NewRelease("audited", NAME))
    models.start(platform, NewRun((fair.DATANET,), "other", "other"))
    worker_of(platform).drain()
    models.publish(platform, NewRelease("other", OTHER))
    calls = [ask(platform, prompt) for prompt in PROMPTS]
    mixed = ask(platform, PROMPTS[0], f"mix:{NAME}*0.5+{OTHER}*0.75")
    free = fair.free_call(platform, tokenizer)
    worker_of(platform).drain()
    platform.settle.run()
    exports.export(platform, NewExport(NAME, str(root / "export")))
    exports.export(platform, NewExport(NAME, str(root / "texts"), has_texts=True))
    exports.export(platform, NewExport(OTHER, str(root / "other")))
    paid = min(calls, key=lambda one: receipts.show(platform, ShowReceipt(one)).nobody_ppb)
    with platform.database.read() as transaction:
        release = releases.by_name(transaction, parse_release_name(NAME))
    return Files(
        public=bundle(platform, ShowReceipt(paid)),
        private=bundle(platform, ShowReceipt(paid, is_private=True)),
        full=bundle(platform, ShowReceipt(paid, is_private=True, rows=10_000)),
        drawn=bundle(platform, ShowReceipt(paid, rows=2, draw="mine")),
        free=bundle(platform, ShowReceipt(free, is_private=True, rows=1)),
        export=root / "export",
        texts=root / "texts",
        mixed=bundle(platform, ShowReceipt(mixed, is_private=True, rows=2)),
        other=root / "other",
        anchors=epochs.show(platform, WhichEpoch()).anchors,
        base=platform.models.base_folder,
        gateway_key=platform.gateway.private_key,
        state=platform.models.state_folder(release),
        openings=exports.list_openings(platform, WhichRelease(NAME)),
    )


def ask(
    platform: Platform, prompt: str, model: str = NAME, *, is_audited: bool = False
) -> ReceiptId:
    wanted = CallRequest(
        fair.payer(platform).address,
        model,
        prompt,
        max_tokens=24,
        decoding=Decoding(temperature_milli=0),
        is_audited=is_audited,
    )
    made = answer.start(platform.models.desk, wanted)
    list(made)
    return made.result().receipt_id


def bundle(platform: Platform, wanted: ShowReceipt) -> bytes:
    return receipts.show(platform, wanted).bundle
