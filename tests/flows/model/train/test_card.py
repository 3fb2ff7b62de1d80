"""A run that is asked for a card trains on halves of its data, once, and says what they showed."""

import shutil

import msgspec
import pytest

from openledger.attribution.card.figures import Audit
from openledger.attribution.state import load_state
from openledger.core.encoding import decode
from openledger.core.errors import ConflictError, InvalidInputError, StoppedError
from openledger.flows.model.train import adapters, plan
from openledger.flows.model.train.adapters import HALVING, Made
from openledger.flows.model.train.plan import attribution_folder
from openledger.storage.records.model import runs
from openledger.web.operations import cards, models
from openledger.web.operations.models import NewRelease, NewRun, RecipeChoice, Which
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform
from tests import market as fair

pytestmark = pytest.mark.slow

CHOICE = RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=0, card_adapters=16)


def start(market: Platform, choice: RecipeChoice = CHOICE, name: str = "run") -> runs.Run:
    made = models.start(market, NewRun((fair.DATANET,), name, name, choice=choice))
    with market.database.read() as transaction:
        return runs.get(transaction, made.id)


def audit_of(market: Platform, run: runs.Run) -> Audit:
    audit = load_state(attribution_folder(market.home.run(run.op))).manifest.audit
    assert isinstance(audit, Audit)
    return audit


def test_a_released_card_stands_under_the_training_root(market: Platform) -> None:
    run = start(market, msgspec.structs.replace(CHOICE, leaves_out=True))
    worker_of(market).drain()
    ended = models.show_run(market, Which("run"))
    assert ended.state == "trained", ended.error
    models.publish(market, NewRelease("run", "me/tunes"))
    shown = cards.card(market, Which("me/tunes"))
    audit = audit_of(market, run)
    found = audit.measured

    assert shown.measured == found
    assert (shown.run, shown.runs) == (2, 2)
    assert (
        shown.training_root == load_state(attribution_folder(market.home.run(run.op))).training_root
    )
    assert (found.half_adapters, found.left_out) == (16, 4)
    assert found.influence.lds_contributor is not None
    assert found.influence.payout_error is not None
    assert all(market.home.adapter(one).is_dir() for one in audit.adapters)
    assert len(set(audit.adapters)) == 16
