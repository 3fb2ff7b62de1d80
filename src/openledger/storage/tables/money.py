"""Tables of money: what payers have, what calls cost, who is paid."""

from sqlalchemy import ForeignKeyConstraint, Index, Table, UniqueConstraint

from openledger.storage.tables.columns import (
    account,
    digest,
    identity,
    metadata,
    number,
    raw,
    text,
    wei,
)

# What Escrow says, as of a block.
escrow_balances = Table(
    "escrow_balances",
    metadata,
    account("gateway", primary=True),
    account("payer", primary=True),
    wei("deposited"),
    wei("spent"),
    wei("withdrawn"),
    wei("exiting"),
    number("block"),
)

vouchers = Table(
    "vouchers",
    metadata,
    account("gateway", primary=True),
    account("payer", primary=True),
    digest("channel_id"),
    raw("channel"),  # canonical bytes
    wei("limit"),  # over all calls ever
    text("signature"),
    number("updated_at"),
)

gateway_books = Table(
    "gateway_books",
    metadata,
    account("gateway", primary=True),
    number("next_sequence"),
    wei("total"),  # of all fees ever
    digest("previous"),  # digest of the last call receipt
)

payer_books = Table(
    "payer_books",
    metadata,
    account("gateway", primary=True),
    account("payer", primary=True),
    number("next_sequence"),
    wei("total"),  # of this payer's fees ever
)

holds = Table(
    "holds",
    metadata,
    identity("receipt", primary=True),  # the id of the receipt to come
    account("gateway"),
    account("payer"),
    identity("api_key", required=False),
    identity("release"),
    wei("amount"),
    identity("state"),  # open | charged | released
    number("opened_at"),
    number("expires_at"),
    number("closed_at", required=False),
    Index(None, "gateway", "payer", "state"),
    Index(None, "state", "expires_at"),
)

call_receipts = Table(
    "call_receipts",
    metadata,
    identity("id", primary=True),
    account("gateway"),
    number("gateway_sequence"),
    account("payer"),
    number("payer_sequence"),
    identity("release"),
    identity("api_key", required=False),
    wei("fee"),
    wei("payer_total"),
    wei("gateway_total"),
    wei("key_total", required=False),  # of this key's fees ever
    digest("previous"),
    digest("digest"),  # EIP-712
    raw("record"),  # canonical bytes: struct, body and signature
    raw("payer_salt"),  # opens the payer commitment, which a draw needs
    raw("private", required=False),  # what the parties may open; erased after the dispute window
    number("created_at"),
    UniqueConstraint("gateway", "gateway_sequence"),
    UniqueConstraint("gateway", "payer", "payer_sequence"),
    UniqueConstraint("digest"),
    ForeignKeyConstraint(["id"], ["holds.receipt"]),
    Index(None, "gateway", "api_key", "gateway_sequence"),
    Index(None, "payer", "created_at"),
    Index(None, "release"),
)

statements = Table(
    "statements",
    metadata,
    identity("receipt", primary=True),
    digest("digest"),  # EIP-712
    raw("record"),  # canonical bytes: struct, body and signature
    raw("vectors", required=False),  # sealed to the payer; erased with what else is private
    number("created_at"),
    UniqueConstraint("digest"),
    ForeignKeyConstraint(["receipt"], ["call_receipts.id"]),
)

epochs = Table(
    "epochs",
    metadata,
    account("gateway", primary=True),
    number("number", primary=True),  # from 1, without a gap
    number("first"),  # gateway_sequence of its first receipt
    number("size"),
    digest("root"),
    wei("drawn"),  # its fees
    digest("payouts_root"),
    wei("promised"),  # to all accounts, ever
    number("payout_number", required=False),  # in Payouts, once active
    identity("state"),  # closed | settled | proposed | active
    number("created_at"),
    number("updated_at"),
    UniqueConstraint("gateway", "first"),
    UniqueConstraint("gateway", "payout_number"),
)

payouts = Table(
    "payouts",
    metadata,
    account("gateway", primary=True),
    number("epoch", primary=True),
    account("account", primary=True),
    number("index"),  # of its leaf
    wei("cumulative"),
    ForeignKeyConstraint(["gateway", "epoch"], ["epochs.gateway", "epochs.number"]),
    UniqueConstraint("gateway", "epoch", "index"),
    Index(None, "account"),
)

claims = Table(
    "claims",
    metadata,
    account("gateway", primary=True),
    account("account", primary=True),
    number("payout_number", primary=True),
    wei("cumulative"),  # after this claim
    wei("amount"),
    digest("tx_hash"),
    number("created_at"),
)
