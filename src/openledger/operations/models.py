"""What can be asked about training runs and the releases that come of them."""

import msgspec

from openledger.attribution.card.figures import Committed, Measured
from openledger.core.types import Account, Digest, Wei
from openledger.operations.operation import Nothing, Operation
from openledger.settlement.price import Price, SplitPolicy, Terms


class RecipeChoice(msgspec.Struct, frozen=True):
    """What a builder may change of the recipe; None: the default."""

    epochs: int | None = None
    rank: int | None = None
    last_layers: int | None = None
    learning_rate_micro: int | None = None
    held_out_bps: int = 1_000
    scored_tunes: int = 4  # written and judged after training, where the texts are tunes
    card_adapters: int = 0  # trained on halves of the data, to measure attribution with
    leaves_out: bool = False  # also one adapter without each contributor


class NewRun(msgspec.Struct, frozen=True):
    """A run to start; the same key is the same run."""

    datanets: tuple[str, ...]
    name: str
    key: str
    builder: str = "operator"
    choice: RecipeChoice = RecipeChoice()


class NewMerge(msgspec.Struct, frozen=True):
    """Releases to make one of; the same key is the same run."""

    model: str  # a mix, or one release to cut to a rank
    name: str
    key: str
    builder: str = "operator"
    way: str = "svd"  # svd | ties | dare
    rank: int = 16
    density_bps: int = 5_000  # how much of each release TIES and DARE keep
    scored_tunes: int = 4  # written and judged afterwards, where the texts are tunes


class WhichRun(msgspec.Struct, frozen=True):
    """A run by name or id."""

    name: str


class RunView(msgspec.Struct, frozen=True):
    """A run as it stands."""

    id: str
    name: str
    state: str
    stage: str | None  # what a training run is doing at this moment
    number: int | None
    seed: Digest | None
    step: int  # of that stage; of the training once it is done
    steps: int
    seconds_left: int | None
    adapter: Digest | None
    error: str | None
    metrics: msgspec.Raw  # JSON object; empty before there is any
    retry_at: int | None = None  # microseconds; from when a failed run is tried again


class RunList(msgspec.Struct, frozen=True):
    """Runs, the newest first."""

    runs: tuple[RunView, ...]


class WhichRelease(msgspec.Struct, frozen=True):
    """A release by name."""

    name: str


class NewRelease(msgspec.Struct, frozen=True):
    """A run to release."""

    run: str
    name: str  # owner/name
    price: Price = Price(Wei(10**17), Wei(5 * 10**17), Wei(10**16))
    policy: SplitPolicy | None = None  # None: the default, that of a merge if it is one


class ReleaseView(msgspec.Struct, frozen=True):
    """A release."""

    name: str
    number: int | None
    builder: Account
    base: Digest
    adapter: Digest
    training_root: Digest
    terms: Terms
    is_deprecated: bool
    card: msgspec.Raw  # JSON


class ReleaseList(msgspec.Struct, frozen=True):
    """Releases by name."""

    releases: tuple[ReleaseView, ...]


class CardView(msgspec.Struct, frozen=True):
    """A card; `committed` proves to anyone that `measured` stands under the training root."""

    name: str
    number: int | None
    builder: Account
    base: Digest
    adapter: Digest
    training_root: Digest
    run: int  # its place among the runs that this builder has begun on chain
    runs: int  # how many those are by now
    self_supplied_bps: int  # of the text trained on, how much the builder contributed
    is_audited: bool  # whether calls may ask for the audited mode
    measured: Measured | None  # None: not measured
    committed: Committed | None  # None: the adapter was not trained here


class NewExport(msgspec.Struct, frozen=True):
    """A release to copy into a folder of the machine that holds the home."""

    name: str
    folder: str  # absolute; new or empty
    has_texts: bool = False  # the training texts, too: for an audit that retrains


class ExportView(msgspec.Struct, frozen=True):
    """An export as written."""

    name: str
    folder: str
    files: int
    size_bytes: int
    base: Digest  # not in it


class OpeningView(msgspec.Struct, frozen=True):
    """One opening of an attribution state."""

    opened_at: int  # microseconds since 1970
    who: str
    account: Account
    purpose: str
    subject: str


class OpeningList(msgspec.Struct, frozen=True):
    """All openings of a release's state, the oldest first."""

    name: str
    openings: tuple[OpeningView, ...]


class WhichUsage(msgspec.Struct, frozen=True):
    """Releases by name: owner/name is all its versions; None: every release."""

    name: str | None = None


class UsageView(msgspec.Struct, frozen=True):
    """What a release was called for; a mix counts in full for each of its members."""

    name: str
    alone: int  # calls that it answered by itself, at whatever weight
    mixed: int  # calls that it answered with others
    refunded: int  # calls that cost nothing, since no answer arrived; of the others only in pending
    pending: int  # calls whose attribution is not done yet
    input_tokens: int
    output_tokens: int
    fees: Wei  # of those calls
    builder: Wei  # what it earned who built it, by the statements made so far
    data: Wei  # and those whose data it was trained on; what went to commons is in none of them
    parent: Wei  # and, of a merge, those who built what it was merged from


class UsageList(msgspec.Struct, frozen=True):
    """Usage by name and version."""

    releases: tuple[UsageView, ...]


START = Operation("run.start", NewRun, RunView)
MERGE = Operation("run.merge", NewMerge, RunView)
SHOW_RUN = Operation("run.show", WhichRun, RunView)
LIST_RUNS = Operation("run.list", Nothing, RunList)
PUBLISH = Operation("model.publish", NewRelease, ReleaseView)
SHOW = Operation("model.show", WhichRelease, ReleaseView)
LIST = Operation("model.list", Nothing, ReleaseList)
DEPRECATE = Operation("model.deprecate", WhichRelease, ReleaseView)
CARD = Operation("model.card", WhichRelease, CardView)
EXPORT = Operation("model.export", NewExport, ExportView)
OPENINGS = Operation("model.openings", WhichRelease, OpeningList)
USAGE = Operation("model.usage", WhichUsage, UsageList)
