"""An opened home: its database, keys, vault, chain and contracts, and the flows over them."""

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from openledger.chain import deployment, keys
from openledger.chain.acts import Acts
from openledger.chain.contracts import OPERATOR, Contracts
from openledger.chain.index.indexer import Indexer
from openledger.chain.keys import Keyring
from openledger.chain.outbox.outbox import Outbox
from openledger.chain.relay import Relay
from openledger.core.types import Account
from openledger.datanet.contribution import Config as ReadingConfig
from openledger.datanet.extract import Config as ExtractConfig
from openledger.flows.data.contribute.submission import Intake
from openledger.flows.data.create import CreateDatanet
from openledger.flows.model.publish import Publish
from openledger.flows.money.claim import Claim
from openledger.flows.money.fund import Fund
from openledger.flows.money.identity import CheckIdentity
from openledger.flows.money.settle.flow import Settle
from openledger.settings import Settings
from openledger.settlement.receipt import Gateway
from openledger.storage import schema
from openledger.storage.blobs import open_blobs
from openledger.storage.database import Database
from openledger.storage.home import Home
from openledger.storage.records.data import accounts
from openledger.storage.records.data.accounts import AccountKind, LocalAccount
from openledger.storage.vault import Sealer, Vault
from openledger.wiring.chain import OpenChain, contract_settings, open_chain
from openledger.wiring.threads import limit_spinning

if TYPE_CHECKING:
    from openledger.wiring.models import Models

TREASURY = "treasury"
# Labels whose derived keys encrypt instead of signing.
_HOME_KEY = "vault/home"
_NETWORK_KEY = "vault/duplicates"
# The same name for ever: whoever owns the home goes on at once after a crash.
_OUTBOX_OWNER = "home"


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1_000


@dataclass(frozen=True)
class Platform:
    """Everything of one home, wired; the model rooms are opened when first needed."""

    settings: Settings
    home: Home
    database: Database
    keyring: Keyring
    vault: Vault
    sealer: Sealer
    chain: OpenChain
    acts: Acts

    @property
    def gateway(self) -> Gateway:
        """Who signs receipts here: the operator."""
        return Gateway(
            account=self.keyring.account(OPERATOR),
            private_key=self.keyring.private_key(OPERATOR),
            domain=self.acts.contracts.domain("Escrow"),
        )

    @property
    def treasury(self) -> Account:
        """Who gets the platform part."""
        return self.keyring.account(TREASURY)

    @property
    def cache(self) -> Path:
        """The machine-wide cache of packages and converted base models."""
        return Path(self.settings.home.cache).expanduser()

    @property
    def intake(self) -> Intake:
        """What contributing needs."""
        return Intake(
            database=self.database,
            vault=self.vault,
            acts=self.acts,
            network_key=self.keyring.private_key(_NETWORK_KEY),
            clock=now_us,
            random=secrets.token_bytes,
            config=self._reading,
        )

    @property
    def _reading(self) -> ReadingConfig:
        """What may be sent may be read, and never less than the sources bring."""
        default = ExtractConfig()
        sent = self.settings.serve.max_body_mb << 20
        largest = max(default.largest_file_bytes, sent)
        return ReadingConfig(extract=replace(default, largest_file_bytes=largest))

    @property
    def create_datanet(self) -> CreateDatanet:
        return CreateDatanet(self.database, self.acts, now_us)

    @property
    def fund(self) -> Fund:
        return Fund(
            database=self.database,
            acts=self.acts,
            keyring=self.keyring,
            gateway=self.gateway.account,
            clock=now_us,
            random=secrets.token_bytes,
        )

    @property
    def settle(self) -> Settle:
        return Settle(self.database, self.acts, self.gateway.account, now_us)

    @property
    def claim(self) -> Claim:
        return Claim(self.database, self.acts, self.gateway.account, now_us)

    @property
    def publish(self) -> Publish:
        return Publish(self.database, self.acts, self.home, now_us)

    @property
    def check_identity(self) -> CheckIdentity:
        return CheckIdentity(self.database, self.acts, self.indexer, self.gateway.account)

    @cached_property
    def indexer(self) -> Indexer:
        """What happened on the contracts, kept up by the worker."""
        return Indexer(self.database, self.acts.contracts, now_us)

    @cached_property
    def models(self) -> "Models":
        """Base model, training, serving and attribution; imports torch."""
        limit_spinning()
        from openledger.wiring.models import Models

        return Models(self)

    def account(self, label: str, kind: AccountKind, name: str) -> LocalAccount:
        """An account of this home by its label, made when it is new; a known one keeps its name."""
        new = LocalAccount(self.keyring.account(label), label, kind, name, now_us())
        with self.database.transaction() as transaction:
            known = accounts.by_address(transaction, new.address)
            if known is None:
                accounts.add(transaction, new)
            return known or new


@contextmanager
def open_platform(settings: Settings) -> Iterator[Platform]:
    """Own the home, bring it up to date, and open everything in it.

    Raises:
        HomeBusyError: another process owns the home.
        ChainUnavailableError: the chain does not answer.
        WrongChainError: the chain is not the one this home was made for.
    """
    home = Home(Path(settings.home.path).expanduser())
    with ExitStack() as stack:
        stack.enter_context(home.own())
        keyring = _keyring(home, settings)
        database = Database(settings.home.database or home.database)
        stack.callback(database.close)
        schema.upgrade(database)
        home_key = keyring.private_key(_HOME_KEY)
        blobs = open_blobs(settings.home.blobs or home.blobs)
        chain = stack.enter_context(
            open_chain(settings.chain, home.chain, Path(settings.home.cache).expanduser(), keyring)
        )
        platform = Platform(
            settings=settings,
            home=home,
            database=database,
            keyring=keyring,
            vault=Vault(blobs, home_key),
            sealer=Sealer(home_key),
            chain=chain,
            acts=_acts(settings, home, database, keyring, chain),
        )
        platform.account(OPERATOR, AccountKind.OPERATOR, "the operator")
        platform.account(TREASURY, AccountKind.OPERATOR, "the platform")
        stack.callback(platform.acts.outbox.close)
        stack.callback(_close_models, platform)
        yield platform


def _close_models(platform: Platform) -> None:
    if "models" in vars(platform):
        platform.models.close()


def _keyring(home: Home, settings: Settings) -> Keyring:
    password = None
    if settings.home.password_file:
        password = Path(settings.home.password_file).expanduser().read_text().strip()
    if (home.keys / keys.SEED_FILE).exists():
        return keys.unlock(home.keys, password)
    return keys.create(home.keys, password)


def _acts(
    settings: Settings, home: Home, database: Database, keyring: Keyring, chain: OpenChain
) -> Acts:
    outbox = Outbox(database, chain.client, keyring, now_us, owner=_OUTBOX_OWNER)
    builder = deployment.Builder(chain.client, database, outbox, keyring)
    chosen = partial(contract_settings, settings.chain, chain.client.config.profile)
    path = home.root / "deployment.json"
    contracts = Contracts(chain.client, deployment.deploy(path, builder, chosen))
    outbox.relay = Relay(contracts, keyring, now_us)
    return Acts(database, contracts, outbox, settings.chain.confirm_timeout_s)
