"""The routes over the real flow and a real database; only the engine is a fake."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import httpx
import msgspec
import pytest

from openledger.core.encoding import decode, encode
from openledger.core.errors import (
    ChainUnavailableError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from openledger.core.ids import parse_receipt_id, receipt_id
from openledger.core.signing import Domain, address_of
from openledger.core.types import WEI_PER_OPEN, Account, Digest, Wei
from openledger.flows.money.infer.request import Desk
from openledger.lm.base import load_base
from openledger.lm.tiny import build_tiny
from openledger.lm.tokenizer import Tokenizer
from openledger.serving.engine import AdapterRef
from openledger.settlement.price import Price, SplitPolicy, Terms
from openledger.settlement.price import fee as fee_of
from openledger.settlement.receipt import Gateway, Private, SignedCall, verify_call
from openledger.settlement.voucher import Channel
from openledger.storage import schema
from openledger.storage.database import Database
from openledger.storage.records.data import accounts
from openledger.storage.records.model import releases, runs
from openledger.storage.records.money import balances, calls
from openledger.storage.vault import Sealer
from openledger.web.app import Config, Parts, create_app
from openledger.web.inference import InferenceRequest, Message, Payer
from openledger.web.parts.books import BaseCard, GatewayBooks, KeyBook, ReleaseCatalogue
from openledger.web.parts.readiness import Readiness
from openledger.web.parts.till import Till
from tests.fakes import FAKE_ADAPTER_FILE, FakeEngine

NOW_US = 1_800_000_000_000_000
KEY = "sk-ol-aaaa-very-secret"
TOKEN = "token-of-the-home"
PRIVATE_KEY = b"\x01" * 32
GATEWAY = Gateway(address_of(PRIVATE_KEY), PRIVATE_KEY, Domain(31_337, Account("0x" + "e" * 40)))
PAYER = Account("0x" + "a" * 40)
OWNER = Account("0x" + "b" * 40)
PRICE = Price(Wei(10**15), Wei(2 * 10**15), Wei(10**14))
TERMS = Terms(1, PRICE, SplitPolicy())
ADAPTER = Digest(sha256(b"adapter").hexdigest())
CHAT = {"model": "folk/reels", "messages": [{"role": "user", "content": "A reel"}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder).tokenizer


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file; copying it is quicker than migrating."""
    path = tmp_path_factory.mktemp("filled") / "openledger.db"
    database = Database(path)
    schema.upgrade(database)
    _fill(database)
    database.checkpoint()
    database.close()
    return path


@pytest.fixture
def desk(tokenizer: Tokenizer, filled: Path, tmp_path: Path) -> Iterator[Desk]:
    shutil.copyfile(filled, tmp_path / "openledger.db")
    database = Database(tmp_path / "openledger.db")
    engine = FakeEngine(256, tokenizer.size, script=tokenizer.encode("X:1 reel"))
    (tmp_path / FAKE_ADAPTER_FILE).write_bytes(b"adapter")
    engine.load(AdapterRef(ADAPTER, tmp_path))
    numbers = iter(range(1_000))
    yield Desk(
        database=database,
        engine=engine,
        tokenizer=tokenizer,
        gateway=GATEWAY,
        sealer=Sealer(bytes(32)),
        clock=lambda: NOW_US,
        random=lambda size: sha256(b"%d" % next(numbers)).digest()[:size],
    )
    database.close()


def _fill(database: Database) -> None:
    with database.transaction() as transaction:
        account = accounts.LocalAccount(PAYER, "anna", accounts.AccountKind.USER, "Anna", NOW_US)
        accounts.add(transaction, account)
        accounts.add_key(transaction, accounts.api_key(KEY, PAYER, "laptop", NOW_US))
        zero = Wei(0)
        deposit = Wei(WEI_PER_OPEN)
        balances.set_escrow(
            transaction,
            balances.EscrowBalance(GATEWAY.account, PAYER, deposit, zero, zero, zero, 1),
        )
        channel = Channel(PAYER, GATEWAY.account, 2**40, deposit, deposit, 0, Digest("c" * 64))
        voucher = balances.VoucherRow(
            GATEWAY.account, PAYER, Digest("d" * 64), encode(channel), deposit, "00", 1
        )
        balances.set_voucher(transaction, voucher)
        for number, name in enumerate(["reels", "jigs"], 1):
            run = runs.NewRun(Digest(f"{number:064x}"), PAYER, name, b"{}", b"[]", ADAPTER, 1)
            made = runs.create(transaction, run, NOW_US)
            release = releases.create(transaction, _release(made.id, name), NOW_US)
            if name == "reels":
                releases.publish(transaction, release.id, number)


def _release(run: str, name: str) -> releases.NewRelease:
    return releases.NewRelease(
        owner="folk",
        name=name,
        builder=PAYER,
        run=run,
        base=Digest("b" * 64),
        adapter=ADAPTER,
        training_root=Digest("7" * 64),
        training_size=1,
        card=b"{}",
        folder="releases/1",
        terms=encode(TERMS),
    )


def chain_answers() -> None:
    """It does."""


def ask(  # the routes, over the real parts
    desk: Desk,
    method: str,
    path: str,
    body: object = None,
    key: str = KEY,
    ask_chain: Callable[[], None] = chain_answers,
) -> httpx.Response:
    parts = Parts(
        inferences=Till(desk),
        catalogue=ReleaseCatalogue(desk.database, BaseCard("Tiny", 256), desk.engine),
        keys=KeyBook(desk.database, desk.clock, TOKEN, OWNER),
        books=GatewayBooks(desk.database, GATEWAY.account),
        pace=lambda payer: None,
        stats=desk.engine.stats,
        answered=desk.meter.answered,
        unready=Readiness(desk.database, desk.engine, ask_chain).reason,
    )
    transport = httpx.ASGITransport(create_app(parts, Config()))

    async def run() -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as http:
            return await http.request(method, path, json=body)

    return asyncio.run(run())


def test_the_base_stands_last_in_the_list_for_embeddings_and_costs_nothing(desk: Desk) -> None:
    base = BaseCard("tiny, seed 0", 256, "openledger", embeds=True)
    catalogue = ReleaseCatalogue(desk.database, base, desk.engine)
    first, last = catalogue.models()

    assert (first.name, first.type) == ("folk/reels@1", "chat")
    assert (last.name, last.type, last.owner) == ("tiny, seed 0", "embedding", "openledger")
    assert last.price == Price(Wei(0), Wei(0), Wei(0))
    assert catalogue.model("tiny, seed 0") == last
    silent = ReleaseCatalogue(desk.database, BaseCard("tiny, seed 0", 256), desk.engine)
    assert silent.models() == (first,)
    with pytest.raises(InvalidInputError):
        silent.model("tiny, seed 0")


def test_a_paid_call_is_answered_charged_and_signed(desk: Desk) -> None:
    answer = ask(desk, "POST", "/v1/chat/completions", CHAT)
    body = answer.json()
    usage = body["usage"]
    fee = fee_of(PRICE, usage["prompt_tokens"], usage["completion_tokens"])
    with desk.database.read() as transaction:
        call = calls.get(transaction, parse_receipt_id(body["id"]))
    signed = decode(call.record, SignedCall)
    verify_call(GATEWAY.domain, signed)
    details = usage["cost_details"]

    assert answer.status_code == 200
    assert body["choices"][0]["message"]["content"] == "X:1 reel"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["model"] == "folk/reels@1"
    assert body["system_fingerprint"].startswith("fp_")
    assert call.fee == fee
    assert usage["cost"] == fee / WEI_PER_OPEN
    assert float(details["data"]) == pytest.approx(usage["cost"] / 2)
    assert "base_owner" not in details
    assert call.api_key == KEY[:12]


def test_metrics_count_what_a_release_answered(desk: Desk) -> None:
    before = ask(desk, "GET", "/metrics").text
    used = [
        ask(desk, "POST", "/v1/chat/completions", CHAT | more).json()["usage"]
        for more in ({}, {"max_tokens": 2})
    ]
    lines = ask(desk, "GET", "/metrics").text.splitlines()

    assert "{release=" not in before
    for name, count in (
        ("answers", 2),
        ("mixed_answers", 0),
        ("input_tokens", sum(one["prompt_tokens"] for one in used)),
        ("output_tokens", sum(one["completion_tokens"] for one in used)),
    ):
        line = f'openledger_release_{name}_total{{release="folk/reels@1"}} {float(count)}'
        assert line in lines


def test_a_stream_pays_the_same_and_the_balance_shows_it(desk: Desk) -> None:
    answer = ask(desk, "POST", "/v1/chat/completions", CHAT | {"stream": True})
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    balance = ask(desk, "GET", "/v1/balance").json()
    price = chunks[-1]["openledger"]["price"]["amount"]

    assert text == "X:1 reel"
    assert int(balance["spent"]) == float(price) * WEI_PER_OPEN
    assert int(balance["free"]) == WEI_PER_OPEN - int(balance["spent"])
    assert (balance["held"], balance["deposited"]) == ("0", str(WEI_PER_OPEN))


def test_a_call_cut_at_max_tokens_ends_with_length(desk: Desk) -> None:
    answer = ask(
        desk, "POST", "/v1/completions", {"model": "folk/reels@1", "prompt": "X:", "max_tokens": 2}
    )

    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["completion_tokens"] == 2


def test_a_receipt_shows_its_signed_half_while_attribution_is_pending(desk: Desk) -> None:
    identity = ask(desk, "POST", "/v1/chat/completions", CHAT).json()["id"]
    shown = ask(desk, "GET", f"/v1/receipts/{identity}")
    unknown = ask(desk, "GET", f"/v1/receipts/{receipt_id(bytes(16))}")
    document = shown.json()

    assert (shown.status_code, unknown.status_code) == (202, 404)
    assert document["id"] == parse_receipt_id(identity)
    assert document["call"]["body"]["receipt_id"] == document["id"]
    assert document["statement"] is None


def test_a_whole_receipt_shows_both_halves(desk: Desk) -> None:
    identity = ask(desk, "POST", "/v1/chat/completions", CHAT).json()["id"]
    with desk.database.transaction() as transaction:
        row = calls.Statement(parse_receipt_id(identity), Digest("5" * 64), b'{"x":1}', NOW_US)
        calls.state(transaction, row)
    shown = ask(desk, "GET", f"/v1/receipts/{identity}")

    assert shown.status_code == 200
    assert shown.json()["statement"] == {"x": 1}


def test_an_open_call_has_a_receipt_without_halves(desk: Desk) -> None:
    call = Till(desk).start(request(is_streamed=True))
    books = GatewayBooks(desk.database, GATEWAY.account)
    pending = books.receipt(call.receipt_id)
    held = books.balance(PAYER).held
    call.cancel(0)

    assert not pending.is_complete
    assert msgspec.json.decode(pending.document)["call"] is None
    assert held > 0
    assert books.balance(PAYER).held == 0


def test_an_answer_is_given_though_the_books_cannot_be_read_after_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Till(desk).start(request())
    list(call)

    def refuse(*_: object) -> NoReturn:
        raise UnavailableError("the database does not answer")

    monkeypatch.setattr(calls, "statement", refuse)
    made = call.result()

    assert made.completion_tokens >= 1
    assert (made.is_attributed, made.settled) == (False, None)


def test_a_cancelled_stream_pays_for_what_was_taken(desk: Desk) -> None:
    call = Till(desk).start(request(is_streamed=True))
    pieces = iter(call)
    next(pieces)
    next(pieces)
    call.cancel(1)

    assert list(pieces) == []
    assert call.result().completion_tokens == 1
    assert call.result().fee == fee_of(
        PRICE, call.result().prompt_tokens, call.result().completion_tokens
    )
    assert call.result().finish_reason == "length"


def test_a_wrong_range_is_refused_before_money_is_held(desk: Desk) -> None:
    for change in ({"temperature": 3.0}, {"top_p": 0.0}, {"top_k": 0}):
        with pytest.raises(InvalidInputError):
            Till(desk).start(msgspec.structs.replace(request(), **change))

    assert GatewayBooks(desk.database, GATEWAY.account).balance(PAYER).held == 0


@pytest.mark.parametrize(
    "version", ["99999999999999999999", pytest.param("9" * 5_000, id="five thousand digits")]
)
def test_versions_that_no_release_has_are_wrong_input(desk: Desk, version: str) -> None:
    asked = ask(desk, "POST", "/v1/chat/completions", CHAT | {"model": f"folk/reels@{version}"})
    shown = ask(desk, "GET", f"/v1/models/folk/reels@{version}")

    assert (asked.status_code, shown.status_code) == (400, 400)
    assert "not a model name" in asked.json()["error"]["message"]


def test_an_unknown_model_is_told_as_openai_tells_it(desk: Desk) -> None:
    error = ask(desk, "POST", "/v1/chat/completions", CHAT | {"model": "folk/reel"}).json()["error"]

    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "did you mean folk/reels@1" in error["message"]


def test_a_prompt_over_the_context_is_told_as_openai_tells_it(desk: Desk) -> None:
    long = {"model": "folk/reels", "prompt": "X" * 300}
    answer = ask(desk, "POST", "/v1/completions", long)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "the context holds 256" in answer.json()["error"]["message"]
    assert GatewayBooks(desk.database, GATEWAY.account).balance(PAYER).held == 0


def test_an_unpublished_release_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFoundError, match="still being published"):
        Till(desk).start(msgspec.structs.replace(request(), model="folk/jigs@1"))


@pytest.mark.parametrize("change", ["a newer version", "a deprecation", "other terms"])
def test_a_repeat_gets_its_receipt_whatever_became_of_the_model(desk: Desk, change: str) -> None:
    wanted = msgspec.structs.replace(request(), idempotency_key="once")
    first = Till(desk).start(wanted)
    list(first)
    with desk.database.transaction() as transaction:
        release = releases.by_number(transaction, 1)
        assert release is not None
        if change == "a newer version":
            run = runs.NewRun(Digest("9" * 64), PAYER, "reels", b"{}", b"[]", ADAPTER, 1)
            made = runs.create(transaction, run, NOW_US)
            newer = releases.create(transaction, _release(made.id, "reels"), NOW_US)
            releases.publish(transaction, newer.id, 3)
        elif change == "a deprecation":
            releases.deprecate(transaction, release.id, NOW_US)
        else:
            policy = SplitPolicy(platform=3_000, data=3_000)
            terms = encode(Terms(2, PRICE, policy))
            releases.set_terms(transaction, releases.TermsRow(release.id, 2, terms, NOW_US))
            releases.use_terms(transaction, release.id, 2)
    again = Till(desk).start(wanted)

    assert "".join(again) == "X:1 reel"
    assert (again.receipt_id, again.model) == (first.receipt_id, "folk/reels@1")
    assert again.result() == first.result()


def test_the_callers_seed_is_the_nonce_that_the_receipt_binds(desk: Desk) -> None:
    call = Till(desk).start(msgspec.structs.replace(request(), seed=7))
    call.cancel(0)
    with desk.database.read() as transaction:
        sealed = calls.get(transaction, call.receipt_id).private
    assert sealed is not None
    private = decode(desk.sealer.unseal(call.receipt_id, sealed), Private)

    assert private.nonce == "7|1|1"
    assert call.result().completion_tokens == 0


def test_only_published_models_are_listed(desk: Desk) -> None:
    listed = ask(desk, "GET", "/v1/models").json()["data"]
    shown = ask(desk, "GET", "/v1/models/folk/reels").json()

    assert listed == [shown]
    assert (shown["id"], shown["parent"], shown["context_length"]) == ("folk/reels@1", "Tiny", 256)
    assert shown["pricing"]["completion"] == "0.000002"


def test_a_model_whose_adapter_is_not_loaded_is_not_listed(desk: Desk) -> None:
    desk.engine.unload(ADAPTER)
    ready = ask(desk, "GET", "/readyz")

    assert ask(desk, "GET", "/v1/models").json()["data"] == []
    assert ready.status_code == 503
    assert "folk/reels@1 cannot be loaded" in ready.json()["error"]["message"]


def test_a_server_is_ready_while_engine_and_chain_answer(desk: Desk) -> None:
    def away() -> None:
        raise ChainUnavailableError("the chain does not answer; start it")

    ready = ask(desk, "GET", "/readyz")
    without_chain = ask(desk, "GET", "/readyz", ask_chain=away)
    desk.engine.close()
    without_engine = ask(desk, "GET", "/readyz")

    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert without_chain.status_code == without_engine.status_code == 503
    assert "start it" in without_chain.json()["error"]["message"]
    assert "engine has stopped" in without_engine.json()["error"]["message"]


def test_keys_are_known_by_their_hash_and_the_homes_token_is_its_owner(desk: Desk) -> None:
    keys = KeyBook(desk.database, desk.clock, TOKEN, OWNER)

    assert keys.identify(KEY) == Payer(PAYER, KEY[:12])
    assert keys.identify(TOKEN) == Payer(OWNER)
    with pytest.raises(UnauthenticatedError):
        keys.identify("sk-ol-aaaa-another")
    assert ask(desk, "GET", "/v1/models", key="sk-ol-bbbb").status_code == 401


def request(*, is_streamed: bool = False) -> InferenceRequest:
    return InferenceRequest(
        payer=Payer(PAYER, KEY[:12]),
        model="folk/reels",
        messages=(Message("user", "A reel"),),
        is_streamed=is_streamed,
    )
