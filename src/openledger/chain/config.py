"""Which chain a home lives on, and how its clients behave there."""

from typing import Final, Literal

import msgspec

from openledger.core.errors import InvalidInputError

DEVELOPMENT_CHAIN_ID: Final = 31_337
_GWEI: Final = 10**9

Finality = Literal["latest", "safe", "finalized"]


class ChainProfile(msgspec.Struct, frozen=True):
    """One kind of chain; development profiles may mine, shift time and hand out OPEN."""

    name: str
    rpc_url: str | None = None  # None: the chain embedded in this process
    chain_id: int | None = None  # None: whatever the endpoint says when the home is made
    finality: Finality = "latest"  # the newest block that is acted on
    is_development: bool = False
    is_op_stack: bool = False  # a fee for the bytes posted to layer 1 comes on top of gas
    log_range: int = 2_000  # blocks asked of eth_getLogs at once, halved when refused
    max_fee_wei: int = 500 * _GWEI  # per gas; dearer than this, transactions wait
    block_time_s: float = 2.0  # how often it pays to look for news


EMBEDDED: Final = ChainProfile(
    "embedded", chain_id=DEVELOPMENT_CHAIN_ID, is_development=True, block_time_s=0.05
)
ANVIL: Final = ChainProfile(
    "anvil", chain_id=DEVELOPMENT_CHAIN_ID, is_development=True, block_time_s=0.05
)
EVM: Final = ChainProfile("evm", finality="finalized", block_time_s=12.0)
OP_STACK: Final = ChainProfile(
    "op-stack", finality="finalized", is_op_stack=True, max_fee_wei=20 * _GWEI
)
PROFILES: Final = (EMBEDDED, ANVIL, EVM, OP_STACK)


class Config(msgspec.Struct, frozen=True):
    """Patience with nodes and with the chain; all times in seconds."""

    profile: ChainProfile = EMBEDDED
    request_timeout_s: float = 20.0
    read_attempts: int = 3
    retry_pause_s: float = 0.25  # doubled after each attempt
    lease_s: float = 60.0  # of the one sender of a key
    resend_after_s: float = 30.0  # the same bytes again
    bump_after_s: float = 90.0  # the same nonce with a higher fee
    gas_margin_percent: int = 20  # above the estimate
    most_in_flight: int = 64  # transactions of one sender that are not mined yet
    relay_deadline_s: int = 86_400  # how long a signed act may wait for its block


def profile_of(choice: str) -> ChainProfile:
    """The profile that `--chain` names: a known name, or the URL of an EVM or OP Stack node.

    `op+https://…` says that the node is of an OP Stack chain.

    Raises:
        InvalidInputError: it is neither.
    """
    named = {profile.name: profile for profile in (EMBEDDED, ANVIL)}
    if choice in named:
        return named[choice]
    base = OP_STACK if choice.startswith("op+") else EVM
    url = choice.removeprefix("op+")
    if not url.startswith(("http://", "https://")):
        raise InvalidInputError(f"{choice!r} is no chain: give embedded, anvil or an http(s) URL")
    return msgspec.structs.replace(base, rpc_url=url)
