"""Release a trained adapter: anchored with its base, data and terms; and take one back from sale.

A release never changes. Deprecating it stops new calls; old receipts stay valid. On chain a model
is its builder and the hash of `owner/name`, so that two names are never versions of one model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from openledger.chain.acts import Acts
from openledger.chain.outbox.rows import op_id
from openledger.core.encoding import encode
from openledger.core.errors import ConflictError
from openledger.core.ids import ReleaseName, parse_release_name
from openledger.core.types import Digest
from openledger.settlement.parts import Parent, Parents
from openledger.settlement.price import Price, SplitPolicy, Terms, check_merged
from openledger.storage.database import Database
from openledger.storage.home import Home
from openledger.storage.records.data import accounts
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.model import releases
from openledger.storage.records.model.releases import Release
from openledger.storage.records.model.runs import Run, RunState

FIRST_TERMS = 1


class Card(msgspec.Struct, frozen=True):
    """What a release says of itself, from facts only."""

    base: str
    licences: tuple[str, ...]  # of all documents trained on
    metrics: msgspec.Raw  # JSON, see the training flow
    is_audited: bool = False  # whether calls may ask for the audited mode


class Offer(msgspec.Struct, frozen=True):
    """How a run is to be released."""

    run: Run
    name: ReleaseName
    base: Digest
    training_root: Digest
    training_size: int
    card: Card
    price: Price
    policy: SplitPolicy
    parents: tuple[Parent, ...] = ()  # of a merge, who divides its parent part
    members: tuple[Terms, ...] = ()  # in force, of the releases that it was merged from


@dataclass(frozen=True)
class Publish:
    """Publishing the same run again finds the same release."""

    database: Database
    acts: Acts
    home: Home
    clock: Callable[[], int]

    def run(self, offer: Offer) -> Release:
        """Anchor the release and note its number on chain.

        Raises:
            ConflictError: the run is not trained, or released with other terms, or another builder
                has released under this name.
            InvalidInputError: it is a merge at terms that take something from its members.
            ChainRejectedError: the contract refuses, for a data part below a Datanet's floor say.
        """
        run = offer.run
        if run.state is not RunState.TRAINED or run.adapter is None:
            raise ConflictError(f"the run {run.id} is {run.state.value}; train it to its end first")
        parse_release_name(f"{offer.name.owner}/{offer.name.name}")
        new = releases.NewRelease(
            owner=offer.name.owner,
            name=offer.name.name,
            builder=run.builder,
            run=run.id,
            base=offer.base,
            adapter=run.adapter,
            training_root=offer.training_root,
            training_size=offer.training_size,
            card=msgspec.json.encode(offer.card),
            folder=str(self.home.run(run.op).relative_to(self.home.root)),
            terms=encode(Terms(FIRST_TERMS, offer.price, offer.policy)),
            parents=encode(Parents(offer.parents)) if offer.parents else None,
        )
        with self.database.transaction() as transaction:
            if offer.members and releases.by_run(transaction, run.id) is None:
                check_merged(offer.price, offer.policy, offer.members)
            release = releases.create(transaction, new, self.clock())
            builder = accounts.by_address(transaction, run.builder)
        assert builder is not None, "a run's builder is an account of this home"
        if release.number is not None:
            return release
        return self._anchor(release, offer, builder)

    def deprecate(self, release: Release, owner: LocalAccount) -> Release:
        """Offer it no more."""
        if release.deprecated_at is None:
            write = self.acts.contracts.write(
                "Models", "deprecate", release.number or 0, acting=owner.label
            )
            self.acts.perform({op_id("deprecate", release.id): write})
        with self.database.transaction() as transaction:
            return releases.deprecate(transaction, release.id, self.clock())

    def _anchor(self, release: Release, offer: Offer, builder: LocalAccount) -> Release:
        contracts = self.acts.contracts
        slug = sha256(f"{release.owner}/{release.name}".encode()).hexdigest()
        write = contracts.write(
            "Models",
            "release",
            offer.run.number or 0,
            slug,
            release.base,
            release.adapter,
            release.training_root,
            release.training_size,
            offer.price,
            offer.policy,
            acting=builder.label,
        )
        self.acts.perform({op_id("release", release.id): write})
        number = contracts.read(_RunView, "Models", "runs", offer.run.number or 0).release
        with self.database.transaction() as transaction:
            return releases.publish(transaction, release.id, number)


class _RunView(msgspec.Struct, frozen=True):
    release: int
