"""Putting the six contracts on a chain, once, however often it is interrupted.

A key of its own deploys them with its first six transactions, so their addresses follow from the
key alone, and what an interrupted run queued is simply waited for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from eth_utils.crypto import keccak

from openledger.chain.abi import Argument, encode_values
from openledger.chain.client import Client
from openledger.chain.contracts import (
    CONTRACTS,
    OPERATOR,
    ContractSettings,
    Deployment,
    Write,
    artifact,
    interface,
)
from openledger.chain.keys import Keyring
from openledger.chain.outbox.fees import present_fees
from openledger.chain.outbox.outbox import Outbox, Outcome
from openledger.chain.outbox.rows import op_id
from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    InsufficientBalanceError,
    VerificationError,
    WrongChainError,
    full_disk,
)
from openledger.core.types import ZERO_ACCOUNT, Account, Digest, Wei, as_bytes
from openledger.storage.blobs import write_atomically
from openledger.storage.database import Database

DEPLOYER: Final = "deployer"  # labels of keys
GUARDIAN: Final = "guardian"
_GAS_TO_DEPLOY: Final = 20_000_000  # all six need three quarters of it
_GAS_TO_SEND: Final = 21_000
_TIMEOUT_S: Final = 600.0
_READABLE: Final = 0o644  # it holds nothing that is not on chain


class Builder(msgspec.Struct, frozen=True):
    """What deploying takes."""

    client: Client
    database: Database
    outbox: Outbox
    keyring: Keyring


def load(path: Path, client: Client) -> Deployment | None:
    """The record of an earlier deployment, None when there is none.

    Raises:
        WrongChainError: it was made on another chain than the one that answers.
        VerificationError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Deployment)
    except msgspec.MsgspecError as error:
        raise VerificationError(f"{path} is damaged: {error}") from error
    if client.chain_id != found.chain_id or _genesis(client) != found.genesis:
        raise WrongChainError(
            f"this home's contracts stand on chain {found.chain_id} that began with block "
            f"{found.genesis[:16]}…; the node serves another chain: use that one or another home"
        )
    return found


def deploy(path: Path, builder: Builder, settings: Callable[[], ContractSettings]) -> Deployment:
    """Deploy what is missing and record it; returns the record when all is there.

    The settings are asked for only then: what stands cannot be changed any more.

    The operator must have gas money, and gets all OPEN.

    Raises:
        ChainUnavailableError: the chain does not answer, or takes nothing; call again later.
        ChainRejectedError: a contract could not be made.
        InsufficientBalanceError: the operator lacks gas money; the message says where and how much.
        WrongChainError: the record is of another chain.
        StorageFullError: the record cannot be written; call again when there is room.
    """
    found = load(path, builder.client)
    if found is None:
        found = _deploy(builder, settings())
        with full_disk():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(found), mode=_READABLE)
    return found


def created_address(deployer: Account, nonce: int) -> Account:
    """Where a contract comes to stand: keccak of the RLP list of deployer and nonce (below 128)."""
    assert 0 <= nonce < 0x80
    listed = bytes([0xD6, 0x94]) + as_bytes(deployer) + bytes([nonce or 0x80])
    return Account("0x" + keccak(listed)[12:].hex())


def _deploy(builder: Builder, settings: ContractSettings) -> Deployment:
    client, keyring = builder.client, builder.keyring
    deployer = keyring.account(DEPLOYER)
    addresses = [created_address(deployer, nonce) for nonce in range(len(CONTRACTS))]
    plan = Deployment(
        client.chain_id,
        _genesis(client),
        0,
        deployer,
        keyring.account(OPERATOR),
        keyring.account(GUARDIAN),
        settings,
        *addresses,
    )
    _fund(builder, plan)
    ops = [_op(plan, contract) for contract in CONTRACTS]
    with builder.database.transaction() as transaction:
        for contract, op in zip(CONTRACTS, ops, strict=True):
            builder.outbox.submit(transaction, op, _creation(plan, contract))
    outcomes = _confirm(builder, ops, DEPLOYER, plan.deployer)
    for contract in CONTRACTS:
        if not client.has_code(plan.address(contract)):
            raise ChainRejectedError(
                f"{contract} does not stand at {plan.address(contract)}: the deployer's key was "
                "used elsewhere; start with a fresh home"
            )
    return msgspec.structs.replace(plan, block=outcomes[0].block or 0)


def _fund(builder: Builder, plan: Deployment) -> None:
    """Give the deployer its gas money, unless it has begun already."""
    client = builder.client
    if client.nonce(plan.deployer, "latest"):
        return
    op = _op(plan, "gas")
    amount = Wei(_GAS_TO_DEPLOY * present_fees(client).max_fee)
    if client.balance(plan.deployer) >= amount:
        return
    with builder.database.read() as transaction:
        is_known = builder.outbox.is_known(transaction, op)
    if not is_known:
        _require_gas_money(client, plan, amount)
        with builder.database.transaction() as transaction:
            builder.outbox.submit(transaction, op, Write("gas", plan.deployer, b"", amount))
    _confirm(builder, [op], OPERATOR, plan.holder)


def _require_gas_money(client: Client, plan: Deployment, amount: Wei) -> None:
    """Nobody can look the address up before the first start, so the refusal names it."""
    needed = amount + _GAS_TO_SEND * present_fees(client).max_fee
    has = client.balance(plan.holder)
    if has < needed:
        raise InsufficientBalanceError(
            f"deploying on chain {plan.chain_id} may cost {needed} wei of its own coin, and the "
            f"operator's account {plan.holder} has {has}: send it the rest and run this again"
        )


def _confirm(builder: Builder, ops: list[Digest], label: str, payer: Account) -> list[Outcome]:
    """Wait for writes; when they still wait at the end, say who pays for them and has how much."""
    try:
        return builder.outbox.confirm(ops, _TIMEOUT_S)
    except ChainUnavailableError as error:
        try:
            has = f"{builder.client.balance(payer)} wei"
        except ChainUnavailableError:
            has = "a balance that the chain does not tell now"
        raise ChainUnavailableError(
            f"{error}; gas is paid by the {label}'s account {payer}, which has {has}"
        ) from error


def _creation(plan: Deployment, contract: str) -> Write:
    bytecode = bytes.fromhex(artifact(contract).bytecode.removeprefix("0x"))
    arguments = encode_values(interface(contract).constructor, _arguments(plan)[contract], contract)
    return Write(f"deploy {contract}", ZERO_ACCOUNT, bytecode + arguments, sender=DEPLOYER)


def _arguments(plan: Deployment) -> dict[str, list[Argument]]:
    chosen = plan.settings
    return {
        "OpenToken": [plan.holder],
        "Identity": [chosen.identity_delay_s],
        "Datanets": [plan.identity, chosen.reveal_delay_blocks, chosen.reveal_window_s],
        "Models": [plan.identity, plan.datanets, chosen.seed_delay_blocks, chosen.notice_s],
        "Payouts": [
            plan.open_token,
            plan.identity,
            plan.escrow,
            chosen.payout_delay_s,
            plan.guardian,
        ],
        "Escrow": [plan.open_token, plan.payouts, chosen.exit_delay_s],
    }


def _op(plan: Deployment, step: str) -> Digest:
    return op_id("deploy", plan.genesis, step)


def _genesis(client: Client) -> Digest:
    first = client.block(0)
    if first is None:
        raise WrongChainError("the node does not know its first block; use a full node")
    return first.hash
