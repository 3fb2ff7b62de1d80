"""Keys, models, receipts and balances for the web, read from the database."""

import hmac
from collections.abc import Callable

import msgspec

from openledger.core.errors import NotFoundError
from openledger.core.ids import MIX, parse_release_name
from openledger.core.types import Account, ReceiptId, Wei
from openledger.flows.money.infer.choose import Choice, choose
from openledger.serving.engine import Engine
from openledger.settlement.price import Price, Terms
from openledger.storage.database import Database, Transaction
from openledger.storage.records.data import accounts
from openledger.storage.records.model import releases
from openledger.storage.records.money import balances, calls
from openledger.web.inference import Payer
from openledger.web.openai_api import ModelCard
from openledger.web.platform_api import Balance, ReceiptView

_SECOND_US = 1_000_000


class BaseCard(msgspec.Struct, frozen=True):
    """What a model's listing says of its base and engine."""

    name: str
    context: int  # tokens
    owner: str = ""
    embeds: bool = False  # it stands in the list itself, for embeddings


class ReceiptDocument(msgspec.Struct, frozen=True):
    """The public ring of a receipt; its halves are as they were signed."""

    id: ReceiptId
    call: msgspec.Raw | None  # None: the answer has not ended
    statement: msgspec.Raw | None  # None: attribution is pending


class KeyBook:
    """See `guard.Keys`; `owner` answers for the token that the home's own commands use."""

    def __init__(
        self, database: Database, clock: Callable[[], int], token: str, owner: Account
    ) -> None:
        """`clock` gives microseconds since 1970."""
        self._database = database
        self._clock = clock
        self._token = token
        self._owner = owner

    def identify(self, key: str) -> Payer:
        if hmac.compare_digest(key.encode(), self._token.encode()):
            return Payer(self._owner)
        with self._database.read() as transaction:
            found = accounts.authenticate(transaction, key, self._clock())
        return Payer(found.account, found.prefix, found.daily_cap, found.total_cap)


class ReleaseCatalogue:
    """See `openai_api.Catalogue`."""

    def __init__(self, database: Database, base: BaseCard, engine: Engine) -> None:
        self._database = database
        self._base = base
        self._engine = engine

    def models(self) -> tuple[ModelCard, ...]:
        # What the engine does not know cannot be called, however well it is published.
        known = {one.digest for one in self._engine.residency()}
        with self._database.read() as transaction:
            served = releases.list_served(transaction)
            cards = [self._card(transaction, one) for one in served if one.adapter in known]
        return (*cards, *([self._base_card()] if self._base.embeds else []))

    def model(self, name: str) -> ModelCard:
        if self._base.embeds and name.strip() == self._base.name:
            return self._base_card()
        with self._database.read() as transaction:
            if name.strip().startswith(MIX):
                return self._mix_card(choose(transaction, name, self._engine.caps.max_mix))
            release = releases.by_name(transaction, parse_release_name(name))
            return self._card(transaction, release)

    def _base_card(self) -> ModelCard:
        """The base is called for embeddings, which are free."""
        return ModelCard(
            name=self._base.name,
            owner=self._base.owner,
            created=0,
            base=self._base.name,
            context=self._base.context,
            price=Price(Wei(0), Wei(0), Wei(0)),
            type="embedding",
        )

    def _mix_card(self, choice: Choice) -> ModelCard:
        """What a mix would cost; it stands in no list, since there are more than can be listed."""
        return ModelCard(
            name=choice.model,
            owner="+".join(dict.fromkeys(one.owner for one in choice.releases)),
            created=max(one.created_at for one in choice.releases) // _SECOND_US,
            base=self._base.name,
            context=self._base.context,
            price=choice.terms.price,
        )

    def _card(self, transaction: Transaction, release: releases.Release) -> ModelCard:
        row = releases.terms_of(transaction, release.id, release.terms_version)
        terms = msgspec.json.decode(row.terms, type=Terms, strict=False)
        return ModelCard(
            name=release.full_name,
            owner=release.owner,
            created=release.created_at // _SECOND_US,
            base=self._base.name,
            context=self._base.context,
            price=terms.price,
        )


class GatewayBooks:
    """See `platform_api.Books`: receipts and balances at one gateway."""

    def __init__(self, database: Database, gateway: Account) -> None:
        self._database = database
        self._gateway = gateway

    def receipt(self, receipt: ReceiptId) -> ReceiptView:
        with self._database.read() as transaction:
            call = calls.find(transaction, receipt)
            statement = calls.statement(transaction, receipt)
            hold = balances.find_hold(transaction, receipt)
        if call is None and (hold is None or hold.state is not balances.HoldState.OPEN):
            raise NotFoundError(f"there is no receipt {receipt}")
        document = ReceiptDocument(
            id=receipt,
            call=None if call is None else msgspec.Raw(call.record),
            statement=None if statement is None else msgspec.Raw(statement.record),
        )
        return ReceiptView(statement is not None, msgspec.Raw(msgspec.json.encode(document)))

    def balance(self, account: Account) -> Balance:
        with self._database.read() as transaction:
            has = balances.position(transaction, self._gateway, account)
        return Balance(account, has.escrow.deposited, has.fees, has.held, Wei(has.free))
