"""A small market for tests: a home with a Datanet, a release and a payer, on the embedded chain.

Contracts, database, vault and receipts are real. Only the model is not: its adapter is a file that
`FakeEngine` knows, and `Scores` says whose data made an answer.
"""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import msgspec

from openledger.attribution.attribute import AnswerAttribution
from openledger.attribution.method import CAP_PPB
from openledger.chain import keys
from openledger.chain.acts import Acts
from openledger.chain.client import Client
from openledger.chain.config import Config as ChainConfig
from openledger.chain.contracts import Contracts
from openledger.chain.outbox.outbox import Outbox
from openledger.chain.outbox.rows import op_id
from openledger.chain.relay import Relay
from openledger.chain.wire.transport import Transport as ChainTransport
from openledger.core.errors import EngineFaultError
from openledger.core.ids import ReleaseName
from openledger.core.types import WEI_PER_OPEN, Account, Digest, ReceiptId, Wei
from openledger.datanet.sources import tiny
from openledger.flows.data.contribute.flow import contribute
from openledger.flows.data.contribute.submission import Outcome, Submission
from openledger.flows.model.publish import Card, Offer
from openledger.flows.money.attribute import Attribute, Member
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.charge import Ending, charge
from openledger.flows.money.infer.prepare import prepare
from openledger.flows.money.infer.request import CallRequest, CallResult, Desk, Prepared
from openledger.lm.tokenizer import Tokenizer
from openledger.serving.engine import AdapterRef
from openledger.settings import ChainSettings, HomeSettings, ModelSettings, ServeSettings, Settings
from openledger.settlement.price import Price, SplitPolicy
from openledger.settlement.shares import (
    ClusterScore,
    DocumentScore,
    Gain,
    Segment,
    segment_lengths,
)
from openledger.storage.records.data import contributions, datanets, texts
from openledger.storage.records.data.accounts import AccountKind, LocalAccount
from openledger.storage.records.model import releases, runs
from openledger.storage.records.model.runs import Run, RunState
from openledger.wiring.chain import OpenChain
from openledger.wiring.platform import Platform, now_us, open_platform
from tests.fakes import FAKE_ADAPTER_FILE, FakeEngine, RpcTransport

DATANET = tiny.RULES.name
MODEL = "openledger/tiny-tunes"
PAYER = "user/dev"
DEPOSITED = Wei(50 * WEI_PER_OPEN)
PRICE = Price(Wei(10**15), Wei(5 * 10**15), Wei(10**14))
ADAPTER = Digest(sha256(b"adapter").hexdigest())
BASE = Digest("b" * 64)
_CONTEXT = 256
_METRICS = b'{"base_perplexity":42.5,"perplexity":13.5,"held_out_tokens":340,"contributors":4}'


def settings(home: Path) -> Settings:
    """Those of a test: nothing of this machine is read or written."""
    return Settings(
        home=HomeSettings(path=str(home), cache=str(home.parent / "cache")),
        chain=ChainSettings(confirm_timeout_s=20.0),
        models=ModelSettings(base="tiny", threads=1),
    )


@contextmanager
def open_copy(source: Path, home: Path, serve: ServeSettings | None = None) -> Iterator[Platform]:
    """A copy of a closed home, opened."""
    shutil.copytree(source, home)
    wanted = msgspec.structs.replace(settings(home), serve=serve or ServeSettings())
    with open_platform(wanted) as platform:
        yield platform


def build_market(home: Path) -> None:
    """Contribute, publish, deposit; everything but train. Its keys are always the same."""
    draws = SimpleNamespace(
        token_bytes=lambda size: sha256(b"market").digest()[:size], token_hex=secrets.token_hex
    )
    with mock.patch.object(keys, "secrets", draws), open_platform(settings(home)) as platform:
        owner = operator(platform)
        platform.create_datanet.run(owner, "Tiny tunes", tiny.RULES)
        assert all(one.refusal is None for one in bring_tunes(platform))
        publish(platform, trained(platform, "tiny-tunes"))
        payer = platform.account(PAYER, AccountKind.USER, "dev")
        platform.fund.faucet(payer.address, Wei(2 * DEPOSITED), "first")
        platform.fund.deposit(payer, DEPOSITED, "first")


def operator(platform: Platform) -> LocalAccount:
    """The owner of everything here."""
    return platform.account("operator", AccountKind.OPERATOR, "the operator")


def payer(platform: Platform) -> LocalAccount:
    """Who pays for calls."""
    return platform.account(PAYER, AccountKind.USER, "dev")


def datanet(platform: Platform) -> datanets.Datanet:
    """The one Datanet."""
    with platform.database.read() as transaction:
        return datanets.by_slug(transaction, DATANET)


def tune_submissions(platform: Platform) -> list[Submission]:
    """The dozen tunes of four contributors, on their behalf."""
    return [
        Submission(
            platform.account(f"behalf/tiny/{one.name}", AccountKind.ON_BEHALF, one.name),
            (one.as_file(),),
            claim=2,
            on_behalf=True,
        )
        for one in tiny.contributors()
    ]


def bring_tunes(platform: Platform) -> list[Outcome]:
    """Contribute them all."""
    submissions = tune_submissions(platform)
    return contribute(platform.intake, datanet(platform), operator(platform), submissions)


def trained(platform: Platform, name: str, adapter: Digest = ADAPTER) -> Run:
    """A run that stands on chain, as if it had made this adapter."""
    builder = operator(platform)
    op = Digest(sha256(name.encode()).hexdigest())
    wanted = datanet(platform).number or 0
    version = platform.acts.contracts.call("Datanets", "version_of", wanted)
    assert isinstance(version, tuple)
    versions = ((wanted, *version[:2]),)
    root = Digest("7" * 64)
    contracts = platform.acts.contracts
    begin = contracts.write("Models", "begin", op, op, root, 12, 1, versions)
    block = platform.acts.perform({op_id("begin", op): begin})[0].block
    assert block is not None
    number = contracts.read(int, "Models", "run_of", builder.address, op)
    contracts.client.reach(block + contracts.deployment.settings.seed_delay_blocks + 1, 10)
    platform.acts.perform({op_id("draw", op): contracts.write("Models", "draw_seed", number)})
    if adapter == ADAPTER:
        folder = platform.home.adapter(ADAPTER)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAKE_ADAPTER_FILE).write_bytes(b"adapter")
    new = runs.NewRun(op, builder.address, name, b"{}", b"[]", root, 12)
    with platform.database.transaction() as transaction:
        run = runs.create(transaction, new, now_us())
        runs.begin(transaction, run.id, number, Digest("5" * 64), now_us())
        runs.advance(transaction, run.id, RunState.TRAINING, now_us())
        return runs.finish(transaction, run.id, adapter, _METRICS, now_us())


def offer(run: Run, name: str = "tiny-tunes") -> Offer:
    """A run, to be released at `PRICE`."""
    card = Card("tiny", ("CC0-1.0",), msgspec.Raw(b"{}"))
    root = Digest("7" * 64)
    release = ReleaseName("openledger", name, None)
    return Offer(run, release, BASE, root, 12, card, PRICE, SplitPolicy())


def publish(platform: Platform, run: Run) -> releases.Release:
    """Release a run."""
    return platform.publish.run(offer(run))


def publish_another(platform: Platform, name: str, raw: bytes, **terms: object) -> releases.Release:
    """A release of the market's operator, with an adapter of its own."""
    adapter = Digest(sha256(raw).hexdigest())
    folder = platform.home.adapter(adapter)
    folder.mkdir(parents=True)
    (folder / FAKE_ADAPTER_FILE).write_bytes(raw)
    made = offer(trained(platform, name, adapter), name)
    return platform.publish.run(msgspec.structs.replace(made, **terms))


class Scorer:
    """Says of every answer: three quarters by the first account, one by the second."""

    def __init__(self, accounts: list[Account]) -> None:
        self._accounts = accounts
        self.asked = 0
        self._is_audited = False

    def of(self, _: tuple[Member, ...], *, is_audited: bool) -> "Scorer":
        """Of every mix the same."""
        self._is_audited = is_audited
        return self

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> tuple[AnswerAttribution, ...]:
        self.asked += 1
        clusters = tuple(
            ClusterScore(place, score, 0, (DocumentScore(place, account, score),))
            for place, (account, score) in enumerate(zip(self._accounts, (300, 100), strict=False))
        )
        losses = (1_500_000,) * 16 if self._is_audited else msgspec.UNSET
        segments = tuple(
            Segment(
                tokens, Gain(800_000, 1_000_000, CAP_PPB, 1), Digest("9" * 64), clusters, losses
            )
            for tokens in segment_lengths(len(answer_ids))
        )
        return (AnswerAttribution(None, 800_000 * len(segments), segments),)


class PairScorer(Scorer):
    """The second member added a third of what the first did."""

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> tuple[AnswerAttribution, ...]:
        [found] = super().attribute(prompt_ids, answer_ids)
        replace = msgspec.structs.replace
        return (
            replace(found, leave_one_out_micronats=600_000),
            replace(found, leave_one_out_micronats=200_000),
        )


def desk(platform: Platform, tokenizer: Tokenizer, engine: FakeEngine | None = None) -> Desk:
    """Calls without a model: every answer is the same tune."""
    engine = engine or FakeEngine(_CONTEXT, tokenizer.size, script=tokenizer.encode("X:1 reel"))
    engine.load(AdapterRef(ADAPTER, platform.home.adapter(ADAPTER)))
    numbers = iter(range(1_000_000))
    return Desk(
        database=platform.database,
        engine=engine,
        tokenizer=tokenizer,
        gateway=platform.gateway,
        sealer=platform.sealer,
        clock=now_us,
        random=lambda size: sha256(b"%d %d" % (now_us(), next(numbers))).digest()[:size],
    )


def desk_of_two(platform: Platform, tokenizer: Tokenizer, **terms: object) -> Desk:
    """`openledger/other` on sale beside `MODEL`; what is answered is a function of the mix."""
    other = publish_another(platform, "other", b"other", **terms)
    made = desk(platform, tokenizer, FakeEngine(_CONTEXT, tokenizer.size))
    made.engine.load(AdapterRef(other.adapter, platform.home.adapter(other.adapter)))
    return made


def call(desk: Desk, payer: Account, **changes: object) -> CallResult:
    """One paid call, read to its end."""
    request = CallRequest(payer, MODEL, "X:1\nT:The Open Door\n", max_tokens=20)
    made = answer.start(desk, msgspec.structs.replace(request, **changes))
    for _ in made:
        pass
    return made.result()


def contributors(platform: Platform) -> list[Account]:
    """The accounts of the four contributors, most tunes first."""
    return [one.contributor.address for one in tune_submissions(platform)]


def attribution(platform: Platform, scorer: Scorer) -> Attribute:
    """Statements by what this scorer says."""
    return Attribute(
        database=platform.database,
        gateway=platform.gateway,
        sealer=platform.sealer,
        scorer_of=scorer.of,
        precision="float32",
        token=platform.acts.contracts.deployment.open_token,
        commons=platform.acts.contracts.deployment.payouts,
        platform=platform.treasury,
        clock=now_us,
    )


def attribute(platform: Platform, receipts: list[ReceiptId]) -> Scorer:
    """Make the statements of these calls."""
    scorer = Scorer(contributors(platform))
    attribution(platform, scorer).run(receipts)
    return scorer


def paid_calls(platform: Platform, tokenizer: Tokenizer, count: int) -> list[CallResult]:
    """Calls with their statements, ready to be settled."""
    till = desk(platform, tokenizer)
    made = [call(till, payer(platform).address) for _ in range(count)]
    attribute(platform, [one.receipt_id for one in made])
    return made


def tunes(platform: Platform) -> dict[str, str]:
    """The texts in the Datanet, by title."""
    found = {}
    with platform.database.read() as transaction:
        for one in contributions.of_datanet(transaction, datanet(platform).id):
            titles = [row.title for row in texts.documents_of(transaction, one.id)]
            for chunk in texts.chunks_of(transaction, one.id):
                name = texts.chunk_object(one.id, chunk.position)
                text = platform.vault.get(transaction, one.id, name, chunk.blob).decode()
                found[titles[chunk.document]] = text
    return found


def answered(platform: Platform, model: str, prompt: str, answer: str) -> ReceiptId:
    """A paid call of a real model with this answer, attributed."""
    desk = platform.models.desk
    request = CallRequest(payer(platform).address, model, prompt, max_tokens=200)
    prepared = prepare(desk, request)
    assert isinstance(prepared, Prepared)
    ids = desk.tokenizer.encode(answer)
    receipt = charge(desk, prepared, Ending(ids, answer, "stop")).receipt_id
    platform.models.attribute.run([receipt])
    return receipt


def free_call(platform: Platform, tokenizer: Tokenizer) -> ReceiptId:
    """A call that broke before its first token: its receipt and statement, no fee."""
    engine = FakeEngine(_CONTEXT, tokenizer.size)
    engine.breaks_at = 1
    request = CallRequest(payer(platform).address, MODEL, "X:1", max_tokens=9)
    made = answer.start(desk(platform, tokenizer, engine), request)
    with suppress(EngineFaultError):
        list(made)
    receipt = made.result().receipt_id
    attribute(platform, [receipt])
    return receipt


def over(platform: Platform, transport: ChainTransport, timeout_s: float = 0.0) -> Platform:
    """The same home behind another door to its chain, with little patience."""
    profile = platform.chain.client.config.profile
    config = ChainConfig(profile=profile, read_attempts=1, retry_pause_s=0.0)
    client = Client(transport, config, sleep=lambda _: None)
    contracts = Contracts(client, platform.acts.contracts.deployment)
    outbox = Outbox(
        platform.database, client, platform.keyring, now_us, sleep=lambda _: None, owner="home"
    )
    outbox.relay = Relay(contracts, platform.keyring, now_us)
    acts = Acts(platform.database, contracts, outbox, timeout_s)
    return replace(platform, chain=OpenChain(client, platform.chain.rpc), acts=acts)


def direct(platform: Platform) -> RpcTransport:
    """The embedded chain, as a transport to be wrapped."""
    assert platform.chain.rpc is not None
    return RpcTransport(platform.chain.rpc)
