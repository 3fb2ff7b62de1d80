"""A run trains on what was anchored, once, and goes on from where it died."""

import errno
from pathlib import Path

import msgspec
import pytest

from openledger.core.encoding import decode, encode
from openledger.core.errors import (
    ChainUnavailableError,
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    StorageFullError,
)
from openledger.datanet.extract import File
from openledger.flows.data.contribute.flow import contribute
from openledger.flows.data.contribute.submission import Submission
from openledger.flows.model.train import flow, plan
from openledger.flows.model.train.plan import (
    MANIFEST,
    Order,
    Plan,
    as_begun,
    elsewhere,
    gather,
)
from openledger.operations.datanets import NewDatanet
from openledger.operations.models import NewRun, RecipeChoice, WhichRun
from openledger.storage.records.data.accounts import AccountKind
from openledger.storage.records.model import runs
from openledger.storage.records.model.runs import Run
from openledger.training.split import split_by_key
from openledger.training.task import Stage, TrainingManifest
from openledger.web.operations import datanets, models
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.fakes import FailingTransport

pytestmark = pytest.mark.slow

RUNS_OF_THE_MARKET = 1  # on chain, of its release
CHOICE = RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=0)


@pytest.fixture
def begun(market: Platform) -> Run:
    made = models.start(market, NewRun((fair.DATANET,), "run", "run", choice=CHOICE))
    return stored(market, made.id)


def stored(market: Platform, run_id: str) -> Run:
    with market.database.read() as transaction:
        return runs.get(transaction, run_id)


def test_nothing_approved_is_nothing_to_train_on(market: Platform) -> None:
    with pytest.raises(InvalidInputError, match="no approved contribution"):
        gather(market.models.workshop, [])


def test_only_what_was_anchored_is_trained_on(market: Platform, begun: Run) -> None:
    folder = market.home.run(begun.op)
    material = gather(market.models.workshop, [fair.datanet(market)])
    rows = decode((folder / MANIFEST).read_bytes(), TrainingManifest).rows
    assert as_begun(folder, material, begun.manifest_root) == material

    (folder / MANIFEST).write_bytes(encode(TrainingManifest(rows[::-1])))
    with pytest.raises(DigestMismatchError, match="not the one that was anchored"):
        as_begun(folder, material, begun.manifest_root)
    gone = msgspec.structs.replace(rows[0], position=99)
    (folder / MANIFEST).write_bytes(encode(TrainingManifest((gone, *rows[1:]))))
    with pytest.raises(ConflictError, match="was withdrawn"):
        as_begun(folder, material, begun.manifest_root)

    worker_of(market).drain()
    failed = models.show_run(market, WhichRun("run"))
    assert failed.state == "failed"
    assert "was withdrawn" in (failed.error or "")


def test_texts_that_are_not_trained_on_are_placed_by_their_commits(
    market: Platform, begun: Run
) -> None:
    """Held-out ones where they stood; those of other Datanets before whatever came after them."""
    shop, chosen = market.models.workshop, decode(begun.recipe, Plan)
    material = gather(shop, [fair.datanet(market)])
    split = split_by_key(material.examples, b"seed", 2_000)
    contribution = {
        example.document: row.contribution
        for row, example in zip(material.rows, material.examples, strict=True)
    }
    last = max(contribution)

    held_out = elsewhere(shop, material, split, chosen)
    as_others = elsewhere(shop, material, split, msgspec.structs.replace(chosen, datanets=()))

    assert [one.before for one in held_out] == sorted({one.document for one in split.held_out})
    assert as_others[: len(held_out)] == held_out
    network = as_others[len(held_out) :]
    assert len(network) == len(contribution)
    for document, one in zip(sorted(contribution), network, strict=True):
        later = [d for d, number in contribution.items() if number > contribution[document]]
        assert one.before == min(later, default=last + 1)


@pytest.mark.parametrize(
    ("choice", "differs"),
    [
        ({"epochs": 2}, r"\(epochs\)"),
        ({"rank": 4, "learning_rate_micro": 7}, r"\(rank, learning rate micro\)"),
        ({"held_out_bps": 2_000}, r"\(held-out basis points\)"),
        ({"scored_tunes": 1}, r"\(scored tunes\)"),
    ],
)
def test_the_same_name_with_other_choices_is_refused(
    market: Platform, begun: Run, choice: dict[str, int], differs: str
) -> None:
    other = NewRun((fair.DATANET,), "run", "run", choice=msgspec.structs.replace(CHOICE, **choice))

    with pytest.raises(ConflictError, match=f"{differs}; give the new one another name"):
        models.start(market, other)


def test_the_same_name_with_other_datanets_is_refused(market: Platform, begun: Run) -> None:
    datanets.create(market, NewDatanet("sea", "Songs.", ("CC0-1.0",)))
    other = NewRun((fair.DATANET, "sea"), "run", "run", choice=CHOICE)

    with pytest.raises(ConflictError, match="Datanets"):
        models.start(market, other)


def an_order(market: Platform) -> Order:
    return Order("weak", "weak", fair.operator(market), (fair.datanet(market),), scored_tunes=0)


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_chain_that_goes_down_at_any_request_begins_one_run(
    market: Platform, is_heard: bool
) -> None:
    fault = FailingTransport(fair.direct(market), is_heard=is_heard)
    shop = msgspec.structs.replace(market.models.workshop, acts=fair.over(market, fault).acts)
    failures = 0
    for patience in range(60):
        fault.left = patience
        try:
            flow.start(shop, an_order(market))
        except ChainUnavailableError:
            failures += 1
        else:
            break
    fault.left = None
    made = flow.start(shop, an_order(market))
    contracts = market.acts.contracts
    drawn = contracts.read(flow._OnChain, "Models", "runs", made.number)

    assert failures > 3
    assert contracts.read(int, "Models", "run_count") == made.number == RUNS_OF_THE_MARKET + 1
    assert made.seed == drawn.seed != flow._NO_SEED


def test_a_full_disk_at_the_manifest_of_a_run_stores_no_run(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shop = market.models.workshop
    with monkeypatch.context() as patch:
        patch.setattr(plan, "write_atomically", full)
        with pytest.raises(StorageFullError, match="disk is full"):
            flow.start(shop, an_order(market))
    with market.database.read() as transaction:
        assert "weak" not in {run.name for run in runs.list_all(transaction)}
    made = flow.start(shop, an_order(market))

    assert (market.home.run(made.op) / MANIFEST).exists()
    assert made.seed is not None


def test_the_same_run_goes_on_though_its_datanet_has_moved_on(market: Platform, begun: Run) -> None:
    account = market.account("user/anna", AccountKind.USER, "Anna")
    words = File("words.txt", b"The ferry leaves at noon, and the piper plays a slow air for us.")
    given = Submission(account, (words,), "CC0-1.0")
    owner = fair.operator(market)
    assert contribute(market.intake, fair.datanet(market), owner, [given])[0].refusal is None
    again = models.start(market, NewRun((fair.DATANET,), "run", "run", choice=CHOICE))

    assert (again.id, again.seed) == (begun.id, begun.seed)


def test_a_run_that_died_before_its_end_was_noted_ends_the_same(
    market: Platform, begun: Run
) -> None:
    shop = market.models.workshop
    ended = flow.train(shop, begun, lambda _: None)
    assert flow.train(shop, ended, lambda _: None) is ended
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql(
            "UPDATE training_runs SET state = 'training', adapter = NULL, metrics = NULL "
            "WHERE name = 'run'"
        )
    steps: list[plan.Step] = []
    again = flow.train(shop, stored(market, begun.id), steps.append)

    assert again.adapter == ended.adapter
    assert again.metrics == ended.metrics
    assert flow.BUILDING not in {step.stage for step in steps}


def test_while_it_trains_everyone_sees_the_stage_and_afterwards_the_steps(
    market: Platform, begun: Run
) -> None:
    seen: list[tuple[str, str | None, int]] = []

    def look(step: plan.Step) -> None:
        view = models.show_run(market, WhichRun("run"))
        seen.append((step.stage, view.stage, view.step - step.done))

    ended = flow.train(market.models.workshop, begun, look)

    assert {stage for stage, _, _ in seen} >= {Stage.TRAINING.value, flow.BUILDING}
    assert all(told == shown and apart == 0 for told, shown, apart in seen)
    view = models.show_run(market, WhichRun("run"))
    metrics = msgspec.json.decode(ended.metrics or b"", type=flow.Metrics)
    assert (view.stage, view.step, view.steps) == (None, metrics.steps, metrics.steps)


def test_nothing_readable_of_the_texts_stays_in_the_folder_of_a_run(
    market: Platform, begun: Run
) -> None:
    shop = market.models.workshop
    folder = shop.home.run(begun.op)
    caches: set[int] = set()
    flow.train(shop, begun, lambda _: caches.add(len(list(folder.glob("hidden-*.bin")))))

    assert max(caches) == 2  # training and held out; attribution makes no other
    assert not list(folder.glob("hidden-*"))


def test_a_seed_that_is_always_missed_is_said(market: Platform, begun: Run) -> None:
    class Late:
        """Says of every run that its seed is not drawn."""

        def __init__(self) -> None:
            self.client = market.acts.contracts.client

        def read(self, *_: object) -> flow._OnChain:
            return flow._OnChain(0, 0, flow._NO_SEED)

        def write(self, *_: object) -> None:
            return None

    class Acts:
        contracts = Late()

        def perform(self, _: object) -> None:
            """Nothing comes of it."""

    shop = msgspec.structs.replace(market.models.workshop, acts=Acts())
    with pytest.raises(ChainUnavailableError, match="missed its seed block"):
        flow._drawn_seed(shop, begun, 1)


def test_what_a_killed_run_left_in_the_clear_is_forgotten(tmp_path: Path) -> None:
    for name in ("attribution-unsealed", ".attribution-x1", "attribution"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").write_bytes(b"x")
    plan.forget_unsealed(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["attribution"]
