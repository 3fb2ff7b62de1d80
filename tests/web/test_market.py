"""Real keys and a real purse on a real chain, called over HTTP; only the model is not."""

import asyncio
import dataclasses

import httpx
import pytest
import torch
from msgspec.structs import replace

from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.core.money import from_open
from openledger.core.types import WEI_PER_OPEN, Wei
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.receipts import ShowReceipt
from openledger.operations.wallets import ClaimFor, NewKey, Prefix
from openledger.settlement.parts import DATA
from openledger.storage.records.data.accounts import AccountKind
from openledger.web import server
from openledger.web.app import Config, Parts, create_app
from openledger.web.operations import receipts, wallets
from openledger.web.parts.books import BaseCard, GatewayBooks, KeyBook, ReleaseCatalogue
from openledger.web.parts.readiness import Readiness
from openledger.web.parts.till import Till
from openledger.wiring.platform import Platform, now_us
from tests import market as fair

CALL = {"model": fair.MODEL, "prompt": "X:1\n", "max_tokens": 20}


def parts(platform: Platform, tokenizer: Tokenizer) -> Parts:
    desk = fair.desk(platform, tokenizer)
    gateway = platform.gateway.account
    return Parts(
        inferences=Till(desk),
        catalogue=ReleaseCatalogue(platform.database, BaseCard("Tiny", 256), desk.engine),
        keys=KeyBook(platform.database, now_us, "token of the home", gateway),
        books=GatewayBooks(platform.database, gateway),
        pace=lambda payer: None,
        stats=desk.engine.stats,
        answered=desk.meter.answered,
        unready=Readiness(platform.database, desk.engine, platform.chain.client.ping).reason,
    )


def post(parts: Parts, key: str, **more: str) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(parts, Config()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            headers = {"Authorization": f"Bearer {key}"} | more
            assert (await http.get("/readyz")).status_code == 200
            return await http.post("/v1/completions", json=CALL, headers=headers)

    return asyncio.run(run())


def test_a_key_pays_until_its_cap_its_purse_or_its_revocation(
    market: Platform, tokenizer: Tokenizer
) -> None:
    market.account("user/poor", AccountKind.USER, "poor")
    rich = wallets.new_key(market, NewKey("dev"))
    capped = wallets.new_key(market, NewKey("dev", total_cap=Wei(1)))
    poor = wallets.new_key(market, NewKey("poor"))
    served = parts(market, tokenizer)
    before = wallets.balance(market, ClaimFor("dev")).accounts[0].free
    paid = post(served, rich.key)
    over_cap = post(served, capped.key)
    over_purse = post(served, poor.key)
    spent = before - wallets.balance(market, ClaimFor("dev")).accounts[0].free
    wallets.revoke_key(market, Prefix(rich.prefix))
    revoked = post(served, rich.key)

    assert paid.status_code == 200, paid.text
    assert spent == round(paid.json()["usage"]["cost"] * WEI_PER_OPEN) > 0
    for refused in (over_cap, over_purse):
        assert refused.status_code == 402
        assert refused.json()["error"]["type"] == "insufficient_balance"
    assert revoked.status_code == 401
    assert "was revoked" in revoked.json()["error"]["message"]
    assert wallets.balance(market, ClaimFor("dev")).accounts[0].free == before - spent


def test_a_repeat_says_how_far_its_call_has_come(market: Platform, tokenizer: Tokenizer) -> None:
    key = wallets.new_key(market, NewKey("dev")).key
    served = parts(market, tokenizer)
    once = {"Idempotency-Key": "once"}
    told = [post(served, key, **once).json()]
    fair.attribute(market, [told[0]["openledger"]["receipt"]])
    told.append(post(served, key, **once).json())
    market.settle.run()
    told.append(post(served, key, **once).json())

    assert [one["openledger"]["attribution"] for one in told] == ["pending", "complete", "complete"]
    assert [one["openledger"]["settled"] for one in told] == [None, None, 1]
    assert [one["usage"] for one in told] == [told[0]["usage"]] * 3


def test_a_mix_can_be_asked_what_it_costs_and_stands_in_no_list(
    market: Platform, tokenizer: Tokenizer
) -> None:
    catalogue = parts(market, tokenizer).catalogue
    card = catalogue.model("mix:openledger/tiny-tunes*0.5")

    assert card.name == "mix:openledger/tiny-tunes@1*0.5"
    assert (card.price, card.owner) == (fair.PRICE, "openledger")
    assert [one.name for one in catalogue.models()] == ["openledger/tiny-tunes@1"]
    with pytest.raises(NotFoundError, match="did you mean openledger/tiny-tunes@1"):
        catalogue.model("mix:openledger/tiny-tunes+openledger/tiny-tune")
    with pytest.raises(InvalidInputError, match="sum to 0"):
        catalogue.model("mix:openledger/tiny-tunes+openledger/tiny-tune*-1")


def test_the_pool_is_what_contributors_and_commons_get_together(
    market: Platform, tokenizer: Tokenizer
) -> None:
    key = wallets.new_key(market, NewKey("dev")).key
    answer = post(parts(market, tokenizer), key).json()
    fair.attribute(market, [answer["openledger"]["receipt"]])
    shown = receipts.show(market, ShowReceipt(answer["openledger"]["receipt"]))
    earned = sum(part.amount for part in shown.parts if part.role == DATA)

    assert 0 < earned < from_open(answer["usage"]["cost_details"]["data"])
    assert "contributors" not in answer["usage"]["cost_details"]


@pytest.mark.parametrize("allowed", [100, 0])
def test_a_home_makes_vectors_by_its_base_unless_it_allows_none(
    market: Platform, allowed: int
) -> None:
    serve = replace(market.settings.serve, embed_tokens=allowed)
    platform = dataclasses.replace(market, settings=replace(market.settings, serve=serve))
    app = create_app(server.parts(platform, "token"), Config())
    name = platform.models.base_manifest.name
    base = platform.models.base("float32")
    ids = base.tokenizer.encode("X:1")
    with torch.inference_mode():
        mean = base.model.model(torch.tensor([ids])).last_hidden_state[0].mean(0)

    async def run() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://localhost",
            headers={"Authorization": "Bearer token"},
        ) as http:
            call = {"model": name, "input": "X:1"}
            made = await http.post("/v1/embeddings", json=call)
            return await http.get("/v1/models"), made

    listed, made = asyncio.run(run())
    platform.models.close()

    assert (name in [one["id"] for one in listed.json()["data"]]) == (allowed > 0)
    assert made.status_code == (200 if allowed else 404)
    if allowed:
        vector = torch.tensor(made.json()["data"][0]["embedding"])
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-5)
