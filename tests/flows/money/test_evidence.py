"""The evidence of a paid call, from a tiny model that was really trained."""

import msgspec
import pytest
from sqlalchemy import update

from openledger.core.errors import ConflictError, NotAllowedError, NotFoundError
from openledger.core.ids import receipt_id
from openledger.core.types import PARTS_PER_BILLION, ReceiptId
from openledger.flows.money import evidence as flow
from openledger.flows.money.infer.request import CallRequest, Prepared
from openledger.flows.money.infer.charge import Ending, charge
from openledger.flows.money.infer.prepare import prepare
from openledger.storage.records.data import contributions, texts
from openledger.storage.records.data.contributions import ContributionState
from openledger.storage.tables import documents
from openledger.web.operations import models
from openledger.web.operations.models import NewRelease, NewRun, RecipeChoice
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform, now_us
from tests import market as fair

pytestmark = pytest.mark.slow

MODEL = "openledger/evident"


@pytest.fixture(scope="module")
def trained_home(market_home, tmp_path_factory):
    home = tmp_path_factory.mktemp("evident") / "home"
    with fair.open_copy(market_home, home) as platform:
        choice = RecipeChoice(epochs=12, rank=4, last_layers=2, scored_tunes=0)
        models.start(platform, NewRun((fair.DATANET,), "evident", "evident", choice=choice))
        worker_of(platform).drain()
        models.publish(platform, NewRelease("evident", MODEL))
    return home


@pytest.fixture
def trained(trained_home, tmp_path):
    with fair.open_copy(trained_home, tmp_path / "home") as platform:
        yield platform


def test_try(trained: Platform) -> None:
    desk = trained.models.desk
    with trained.database.read() as t:
        rows = [c for d in [fair.datanet(trained)] for c in contributions.of_datanet(t, d.id)]
        chunk = next(iter(texts.chunks_of(t, rows[0].id)))
        text = trained.vault.get(t, rows[0].id, texts.chunk_object(rows[0].id, 0), chunk.blob).decode()
    request = CallRequest(fair.payer(trained).address, MODEL, text[:30], max_tokens=200)
    prepared = prepare(desk, request)
    assert isinstance(prepared, Prepared)
    ids = desk.tokenizer.encode(text[30:])
    receipt = charge(desk, prepared, Ending(ids, text[30:], "stop")).receipt_id
    trained.models.attribute.run(receipt)
    found = trained.models.show_evidence.run(receipt, fair.payer(trained).address)
    print(msgspec.json.format(msgspec.json.encode(found)).decode())
    from openledger.web.operations import receipts
    print(receipts.show_evidence(trained, receipts.WhichReceipt(receipt)).documents[0])
    assert 0
