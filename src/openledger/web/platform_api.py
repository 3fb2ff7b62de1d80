"""The platform's own JSON routes: receipts, their evidence and balances."""

from collections.abc import Callable
from typing import Protocol

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from openledger.core.ids import parse_receipt_id
from openledger.core.money import CURRENCY
from openledger.core.types import Account, ReceiptId, Wei
from openledger.web.errors import json_response
from openledger.web.guard import Door

_ACCEPTED = 202


class ReceiptDocument(msgspec.Struct, frozen=True):
    """The public ring of a receipt; its halves are as they were signed."""

    id: ReceiptId
    call: msgspec.Raw | None  # None: the answer has not ended
    statement: msgspec.Raw | None  # None: attribution is pending


class ReceiptView(msgspec.Struct, frozen=True):
    """What the public may see of a receipt now."""

    is_complete: bool  # call receipt and attribution statement are both there
    document: msgspec.Raw  # JSON


class Balance(msgspec.Struct, frozen=True):
    """What a payer has at this gateway."""

    account: Account
    deposited: Wei
    spent: Wei
    held: Wei
    free: Wei


class Books(Protocol):
    """Reads receipts and balances."""

    def receipt(self, receipt: ReceiptId) -> ReceiptView:
        """One receipt.

        Raises:
            NotFoundError: nobody was promised this one.
        """
        ...

    def balance(self, account: Account) -> Balance: ...


class AskedEvidence(msgspec.Struct, frozen=True):
    """Whose evidence is asked for, and by whom."""

    receipt: ReceiptId
    asker: Account
    member: str | None  # of a mix: the release whose documents are shown


EvidenceOf = Callable[[AskedEvidence], msgspec.Raw]
"""JSON of the evidence of a call, for one of its parties; raises for anybody else."""


class BalanceBody(msgspec.Struct, frozen=True):
    """A balance; amounts are integers of wei, as strings."""

    account: Account
    deposited: str
    spent: str
    held: str
    free: str
    currency: str = CURRENCY


class PlatformApi:
    """The routes under /v1 that are ours."""

    def __init__(
        self, books: Books, evidence: EvidenceOf | None, door: Door, threads: CapacityLimiter
    ) -> None:
        self._books = books
        self._evidence = evidence
        self._door = door
        self._threads = threads

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/v1")
        router.add_api_route("/receipts/{name}", self.show_receipt, methods=["GET"])
        if self._evidence is not None:
            router.add_api_route("/receipts/{name}/evidence", self.show_evidence, methods=["GET"])
        router.add_api_route("/balance", self.show_balance, methods=["GET"])
        return router

    async def show_receipt(self, request: Request) -> Response:
        """By receipt or completion id; 202 while the attribution is not there yet."""
        receipt = parse_receipt_id(request.path_params["name"])
        view = await run_sync(self._books.receipt, receipt, limiter=self._threads)
        return json_response(view.document, 200 if view.is_complete else _ACCEPTED)

    async def show_evidence(self, request: Request) -> Response:
        """Documents by influence and matching passages, for who paid for the answer."""
        assert self._evidence is not None, "the route is there only with it"
        asker = await self._door.admit(request)
        receipt = parse_receipt_id(request.path_params["name"])
        asked = AskedEvidence(receipt, asker.account, request.query_params.get("release"))
        found = await run_sync(self._evidence, asked, limiter=self._threads)
        return json_response(found)

    async def show_balance(self, request: Request) -> Response:
        payer = await self._door.admit(request)
        has = await run_sync(self._books.balance, payer.account, limiter=self._threads)
        return json_response(
            BalanceBody(
                account=has.account,
                deposited=str(has.deposited),
                spent=str(has.spent),
                held=str(has.held),
                free=str(has.free),
            )
        )
