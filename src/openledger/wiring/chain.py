"""Which chain a home lives on, opened."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from openledger.chain.client import Client
from openledger.chain.config import DEVELOPMENT_CHAIN_ID, ChainProfile, Config, profile_of
from openledger.chain.contracts import OPERATOR, ContractSettings
from openledger.chain.keys import Keyring
from openledger.chain.wire.transport import HttpTransport, Transport
from openledger.core.errors import InvalidInputError
from openledger.core.types import WEI_PER_OPEN, as_bytes
from openledger.settings import ChainSettings

# Gas money of the operator on the embedded chain; it buys nothing anywhere else.
_GAS_MONEY = 1_000_000 * WEI_PER_OPEN
# The least on a public chain.
PUBLIC_DELAY_S = 3 * 86_400
PUBLIC_IDENTITY_DELAY_S = 7 * 86_400
PUBLIC_SEED_DELAY_BLOCKS = 20


class OpenChain(msgspec.Struct, frozen=True):
    """A client, and the door to the embedded chain for wallets."""

    client: Client
    rpc: Callable[[bytes], bytes] | None


@contextmanager
def open_chain(
    settings: ChainSettings, folder: Path, cache: Path, keyring: Keyring
) -> Iterator[OpenChain]:
    """Open the embedded chain, start anvil, or talk to a URL; closed at the end of the block.

    Raises:
        InvalidInputError: the setting names no chain.
        UnavailableError: anvil is not to be had here.
        WrongChainError: the embedded chain has another id.
    """
    profile = profile_of(settings.url)
    if settings.chain_id is not None:
        profile = msgspec.structs.replace(profile, chain_id=settings.chain_id)
    own_id = profile.chain_id or DEVELOPMENT_CHAIN_ID
    if settings.url == "embedded":
        with _embedded(folder, own_id, keyring) as (transport, rpc):
            yield OpenChain(Client(transport, Config(profile=profile)), rpc)
    elif settings.url == "anvil":
        with (
            _anvil(folder, cache, own_id, keyring) as url,
            _http(url) as transport,
        ):
            yield OpenChain(Client(transport, Config(profile=profile)), None)
    else:
        with _http(settings.url.removeprefix("op+")) as transport:
            yield OpenChain(Client(transport, Config(profile=profile)), None)


def contract_settings(chosen: ChainSettings, profile: ChainProfile) -> ContractSettings:
    """What the contracts are deployed with.

    Public chains need time: without it a payer could leave before he is drawn on, a stolen key
    could change who is paid before its owner sees it, and a builder could guess his seed.

    Raises:
        InvalidInputError: too little time for a public chain.
    """
    delay, blocks = chosen.delay_s, chosen.seed_delay_blocks
    if profile.is_development:
        delay, blocks = delay or 0, 1 if blocks is None else blocks
        return _contract_settings(delay, blocks, identity_delay_s=delay)
    delay = _at_least(PUBLIC_DELAY_S, delay, "delay_s")
    blocks = _at_least(PUBLIC_SEED_DELAY_BLOCKS, blocks, "seed_delay_blocks")
    return _contract_settings(delay, blocks, max(delay, PUBLIC_IDENTITY_DELAY_S))


def _contract_settings(
    delay_s: int, seed_delay_blocks: int, identity_delay_s: int
) -> ContractSettings:
    return ContractSettings(
        identity_delay_s=identity_delay_s,
        seed_delay_blocks=seed_delay_blocks,
        notice_s=delay_s,
        exit_delay_s=delay_s,
        payout_delay_s=delay_s,
    )


def _at_least(least: int, chosen: int | None, name: str) -> int:
    if chosen is not None and chosen < least:
        raise InvalidInputError(
            f"chain.{name} is {chosen}; on a public chain it is at least {least}"
        )
    return least if chosen is None else chosen


@contextmanager
def _embedded(
    folder: Path, chain_id: int, keyring: Keyring
) -> Iterator[tuple[Transport, Callable[[bytes], bytes]]]:
    # py-evm takes a second to import; commands that open no chain do not pay for it.
    from openledger.chain.devchain.node import DevChain
    from openledger.chain.devchain.rpc import DirectTransport, handle_body

    folder.mkdir(parents=True, exist_ok=True)
    allocation = {as_bytes(keyring.account(OPERATOR)): _GAS_MONEY}
    chain = DevChain(folder / "chain.db", chain_id, allocation, time.time)
    try:
        yield DirectTransport(chain), lambda body: handle_body(chain, body)
    finally:
        chain.close()


@contextmanager
def _anvil(folder: Path, cache: Path, chain_id: int, keyring: Keyring) -> Iterator[str]:
    from openledger.chain.devchain import anvil

    running = anvil.start(anvil.install(cache / "anvil"), folder / "anvil.json", chain_id)
    try:
        anvil.fund(running.url, keyring.account(OPERATOR), _GAS_MONEY)
        yield running.url
    finally:
        running.close()


@contextmanager
def _http(url: str) -> Iterator[Transport]:
    transport = HttpTransport(url, Config().request_timeout_s)
    try:
        yield transport
    finally:
        transport.close()
