"""What a run will train on, fixed and anchored before its seed is known."""

import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from openledger.attribution.credit.documents import ElsewhereText
from openledger.attribution.method import METHOD_VERSION
from openledger.chain.acts import Acts
from openledger.core.encoding import decode, encode
from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    full_disk,
)
from openledger.core.types import DatanetVersion, Digest, Precision
from openledger.lm.base import BaseModel
from openledger.serving.engine import Engine
from openledger.storage.blobs import write_atomically
from openledger.storage.database import Database, Transaction
from openledger.storage.home import Home
from openledger.storage.records.data import contributions, datanets, texts
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.data.contributions import ContributionState
from openledger.storage.vault import Sealer, Vault
from openledger.training.merging.ways import Merging
from openledger.training.recipe import Recipe
from openledger.training.rows import Example
from openledger.training.split import Split
from openledger.training.task import TrainingManifest, TrainingRow

MANIFEST = "manifest.json"


class CardPlan(msgspec.Struct, frozen=True):
    """What is trained besides, to measure how true the release's attribution is."""

    half_adapters: int  # K
    leaves_out: bool  # also one adapter without each contributor


class MergedRelease(msgspec.Struct, frozen=True):
    """A release that a run merges with others."""

    release: int  # its number on chain
    adapter: Digest
    early: Digest  # the adapter after a quarter of its training
    weight_ppb: int


class MergePlan(msgspec.Struct, frozen=True):
    """What a run is made of, where it trains nothing."""

    merging: Merging
    rank: int  # as asked for; that of the recipe is no larger than all members have together
    members: tuple[MergedRelease, ...]  # in rising order of their releases


class Plan(msgspec.Struct, frozen=True):
    """The whole recipe of a run; its digest goes on chain.

    Of a merge the recipe says the shape of the adapter, the length of rows and the precision, and
    what is held out follows from its members.
    """

    recipe: Recipe
    held_out_bps: int  # of the text, whole titles at a time
    scored_tunes: int  # written and judged after training, where the texts are tunes
    base: Digest
    datanets: tuple[str, ...]  # row ids
    method: int = METHOD_VERSION
    card: CardPlan | msgspec.UnsetType = msgspec.UNSET  # unset: the card says "not measured"
    merge: MergePlan | msgspec.UnsetType = msgspec.UNSET  # unset: the run trains


class Step(msgspec.Struct, frozen=True):
    """Progress in one line: what, how far, and the loss if there is one."""

    stage: str
    done: int
    total: int
    loss: float | None = None
    held_out_loss: float | None = None
    seconds_left: float | None = None


Tell = Callable[[Step], None]


class Versions(msgspec.Struct, frozen=True):
    """The Datanets as they stood when the run began."""

    datanets: tuple[DatanetVersion, ...]


class Workshop(msgspec.Struct, frozen=True):
    """All that training needs, wired once."""

    database: Database
    vault: Vault
    sealer: Sealer  # of the attribution state
    acts: Acts
    home: Home
    base: Callable[[Precision], BaseModel]  # loaded once per precision
    base_digest: Digest
    engine: Callable[[Digest], Engine]  # with this adapter loaded
    clock: Callable[[], int]  # microseconds since 1970
    check_stop: Callable[[], None]  # raises StoppedError once the process is asked to end


class Order(msgspec.Struct, frozen=True):
    """A run to start; the same key is the same run."""

    key: str
    name: str
    builder: LocalAccount
    datanets: tuple[datanets.Datanet, ...]
    recipe: Recipe = Recipe()
    held_out_bps: int = 1_000
    scored_tunes: int = 4
    card: CardPlan | None = None
    merge: MergePlan | None = None


class Material(msgspec.Struct, frozen=True):
    """What the Datanets hold: rows for the manifest, examples for training."""

    rows: tuple[TrainingRow, ...]
    examples: tuple[Example, ...]

    @property
    def root(self) -> Digest:
        """Of the ordered training manifest."""
        return TrainingManifest(self.rows).root


def gather(shop: Workshop, wanted: Sequence[datanets.Datanet]) -> Material:
    """Every chunk of every approved contribution, in the order of their numbers on chain.

    Raises:
        InvalidInputError: there is none.
        VerificationError: a stored chunk is damaged.
    """
    found = _gathered(shop, wanted)
    if not found.rows:
        raise InvalidInputError("no approved contribution to train on; add some, or wait for them")
    return found


def elsewhere(
    shop: Workshop, material: Material, split: Split, plan: Plan
) -> tuple[ElsewhereText, ...]:
    """Every text of this home that a run does not train on, placed among its documents by commit.

    Those that it holds out, and those of the other Datanets.
    """
    numbers = [row.contribution for row in material.rows]  # rising
    documents = [example.document for example in material.examples]
    after_all = documents[-1] + 1
    with shop.database.read() as transaction:
        others = [one for one in datanets.list_all(transaction) if one.id not in plan.datanets]
    network = _gathered(shop, others)
    contribution_of = {
        example.document: row.contribution
        for row, example in zip(network.rows, network.examples, strict=True)
    }

    def place(document: int) -> int:
        later = bisect_right(numbers, contribution_of[document])
        return documents[later] if later < len(documents) else after_all

    held_out = _texts(split.held_out, lambda document: document)
    return (*held_out, *_texts(network.examples, place))


def _texts(examples: Sequence[Example], place: Callable[[int], int]) -> Iterator[ElsewhereText]:
    for document, some in groupby(examples, key=lambda example: example.document):
        chunks = list(some)
        text = "\n".join(chunk.text for chunk in chunks)
        yield ElsewhereText(chunks[0].account, text, place(document))


def _gathered(shop: Workshop, wanted: Sequence[datanets.Datanet]) -> Material:
    rows: list[TrainingRow] = []
    examples: list[Example] = []
    documents = 0
    with shop.database.read() as transaction:
        for one in _approved(transaction, wanted):
            keys = [row.key for row in texts.documents_of(transaction, one.id)]
            for chunk in texts.chunks_of(transaction, one.id):
                name = texts.chunk_object(one.id, chunk.position)
                text = shop.vault.get(transaction, one.id, name, chunk.blob).decode()
                rows.append(TrainingRow(one.number or 0, chunk.position, chunk.digest))
                examples.append(
                    Example(
                        digest=chunk.digest,
                        document=documents + chunk.document,
                        account=one.contributor,
                        text=text,
                        key=keys[chunk.document],
                    )
                )
            documents += len(keys)
    return Material(tuple(rows), tuple(examples))


def check_same(stored: Plan, order: Order) -> None:
    """Check that an order asks for the run that stands, which goes on with what it anchored.

    What has moved on by itself is no other choice: the Datanets' contributions, the method, and the
    precision that suits the machine.

    Raises:
        ConflictError: it asks for something else; the message says what.
    """
    wanted = msgspec.structs.asdict(order.recipe) | {
        "held-out basis points": order.held_out_bps,
        "scored tunes": order.scored_tunes,
        "adapters of the card": order.card or msgspec.UNSET,
        "merge": order.merge or msgspec.UNSET,
        "Datanets": tuple(one.id for one in order.datanets),
    }
    had = msgspec.structs.asdict(stored.recipe) | {
        "held-out basis points": stored.held_out_bps,
        "scored tunes": stored.scored_tunes,
        "adapters of the card": stored.card,
        "merge": stored.merge,
        "Datanets": stored.datanets,
    }
    other = [
        name.replace("_", " ")
        for name in wanted
        if name != "precision" and wanted[name] != had[name]
    ]
    if other:
        raise ConflictError(
            f"the run {order.name} was started with other choices ({', '.join(other)}); "
            "give the new one another name"
        )


def write_manifest(folder: Path, material: Material) -> None:
    """Keep the ordered training manifest in the run's folder, before the run is stored.

    Raises:
        StorageFullError: the disk is full; no run is stored.
    """
    with full_disk():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MANIFEST, encode(TrainingManifest(material.rows)))


def as_begun(folder: Path, material: Material, anchored: Digest) -> Material:
    """Only what was anchored, in its order: later contributions wait for the next run.

    Raises:
        ConflictError: a contribution was withdrawn since.
        DigestMismatchError: the kept manifest is not the anchored one.
    """
    kept = decode((folder / MANIFEST).read_bytes(), TrainingManifest)
    places = {row: place for place, row in enumerate(material.rows)}
    missing = [row.contribution for row in kept.rows if row not in places]
    if missing:
        raise ConflictError(f"contribution {missing[0]} was withdrawn; start a new run without it")
    examples = tuple(material.examples[places[row]] for row in kept.rows)
    begun = Material(kept.rows, examples)
    if begun.root != anchored:
        raise DigestMismatchError("the kept training manifest is not the one that was anchored")
    return begun


def attribution_folder(run_folder: Path) -> Path:
    """Where a run keeps its attribution state."""
    return run_folder / "attribution"


def committed_card(run_folder: Path) -> Path:
    """Where a run keeps its commitment in the clear, for whoever asks for the card."""
    return run_folder / "card.json"


def unsealed_folder(run_folder: Path) -> Path:
    """Where the state is built, in the clear, before it is sealed."""
    return run_folder / "attribution-unsealed"


def forget_unsealed(run_folder: Path) -> None:
    """Delete what a process that died while it built a state left in the clear."""
    for path in (unsealed_folder(run_folder), *run_folder.glob(".attribution-*")):
        shutil.rmtree(path, ignore_errors=True)


def _approved(
    transaction: Transaction, wanted: Sequence[datanets.Datanet]
) -> list[contributions.Contribution]:
    found = [
        row
        for one in wanted
        for row in contributions.of_datanet(transaction, one.id, ContributionState.APPROVED)
    ]
    return sorted(found, key=lambda row: row.number or 0)
