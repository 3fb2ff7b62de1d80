"""What a call is asked for, what it needs, and how it ended."""

from collections.abc import Callable

import msgspec

from openledger.attribution.method import METHOD_VERSION
from openledger.core.encoding import encode
from openledger.core.types import Account, ReceiptId, Wei
from openledger.flows.money.infer.choose import Choice
from openledger.flows.money.infer.meter import Meter
from openledger.lm.tokenizer import ChatMessage, Tokenizer
from openledger.serving.engine import Engine
from openledger.serving.request import Sampling
from openledger.settlement.hold import Hold
from openledger.settlement.receipt import Gateway
from openledger.storage.database import Database
from openledger.storage.records.money.idempotency import Request
from openledger.storage.vault import Sealer

DEFAULT_MAX_TOKENS = 256


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Patience of a call."""

    deadline_s: float = 600.0
    hold_s: int = 1_200  # after this a hold whose process died is given back
    method: int = METHOD_VERSION  # of attribution


class Decoding(msgspec.Struct, frozen=True):
    """How tokens are drawn; in thousandths, so that a receipt can sign them."""

    temperature_milli: int = 1_000
    top_p_milli: int = 1_000
    top_k: int | None = None
    repetition_penalty_milli: int = 1_000
    presence_penalty_milli: int = 0
    frequency_penalty_milli: int = 0
    stop: tuple[str, ...] = ()


class CallRequest(msgspec.Struct, frozen=True):
    """What a caller asks for: a chat, or a text to go on with."""

    payer: Account
    model: str  # owner/name, owner/name@version or mix:..., as the caller wrote it
    prompt: str | tuple[ChatMessage, ...]
    api_key: str | None = None  # its prefix
    key_daily_cap: Wei | None = None
    key_total_cap: Wei | None = None
    max_tokens: int | None = None
    max_cost: Wei | None = None
    decoding: Decoding = Decoding()
    is_audited: bool = False  # attributed with the release's half-data adapters, too
    is_streamed: bool = False  # False: nothing reaches the caller before the whole answer
    nonce: str | None = None  # the client's nonce or seed; None: drawn here
    idempotency_key: str | None = None  # the same key and request are one call, charged once

    def reservation(self, sealer: Sealer) -> Request | None:
        """The key under which storage remembers this call, with a keyed digest of what it asks.

        Which API key pays, its caps and streaming do not make it another call, nor does what the
        model's name, which is digested as sent, stands for by now.
        """
        if self.idempotency_key is None:
            return None
        asked = msgspec.structs.replace(
            self, is_streamed=False, api_key=None, key_daily_cap=None, key_total_cap=None
        )
        return Request(
            f"calls/{self.payer}", self.idempotency_key, sealer.mark("request", encode(asked))
        )


class CallResult(msgspec.Struct, frozen=True):
    """How a call ended."""

    receipt_id: ReceiptId
    text: str
    finish: str
    input_tokens: int
    output_tokens: int
    fee: Wei
    refund: str | None
    cached_tokens: int = 0  # of the prompt, which the engine had read for this payer before


class Desk(msgspec.Struct, frozen=True):
    """All that a call needs, wired once."""

    database: Database
    engine: Engine
    tokenizer: Tokenizer
    gateway: Gateway
    sealer: Sealer
    clock: Callable[[], int]  # microseconds since 1970
    random: Callable[[int], bytes]
    config: Config = Config()
    meter: Meter = msgspec.field(default_factory=Meter)


class StoredAnswer(msgspec.Struct, frozen=True):
    """What a repeated request gets: the first one's answer, at no further charge."""

    result: CallResult
    release: str | msgspec.UnsetType = msgspec.UNSET  # of older answers; the receipt says it


class Prepared(msgspec.Struct, frozen=True):
    """A call whose money is reserved."""

    request: CallRequest
    receipt: ReceiptId
    choice: Choice
    prompt_ids: list[int]
    hold: Hold
    nonce: str
    sampling: Sampling
    started_us: int
