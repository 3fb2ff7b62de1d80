"""Balances, calls and payouts."""

import sqlalchemy as sa
from alembic import op

from openledger.storage.tables.columns import WeiColumn

revision = "0002_money"
down_revision = "0001_data"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "claims",
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("payout_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cumulative", WeiColumn(), nullable=False),
        sa.Column("amount", WeiColumn(), nullable=False),
        sa.Column("tx_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("gateway", "account", "payout_number", name=op.f("pk_claims")),
    )
    op.create_table(
        "epochs",
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column("drawn", WeiColumn(), nullable=False),
        sa.Column("payouts_root", sa.String(length=64), nullable=False),
        sa.Column("promised", WeiColumn(), nullable=False),
        sa.Column("payout_number", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("state", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("updated_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("gateway", "number", name=op.f("pk_epochs")),
        sa.UniqueConstraint("gateway", "first", name=op.f("uq_epochs_gateway_first")),
        sa.UniqueConstraint(
            "gateway", "payout_number", name=op.f("uq_epochs_gateway_payout_number")
        ),
    )
    op.create_table(
        "escrow_balances",
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("payer", sa.String(length=42), nullable=False),
        sa.Column("deposited", WeiColumn(), nullable=False),
        sa.Column("spent", WeiColumn(), nullable=False),
        sa.Column("withdrawn", WeiColumn(), nullable=False),
        sa.Column("exiting", WeiColumn(), nullable=False),
        sa.Column("block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("gateway", "payer", name=op.f("pk_escrow_balances")),
    )
    op.create_table(
        "gateway_books",
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("total", WeiColumn(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_gateway_books")),
    )
    op.create_table(
        "holds",
        sa.Column("receipt", sa.String(length=128), nullable=False),
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("payer", sa.String(length=42), nullable=False),
        sa.Column("api_key", sa.String(length=128), nullable=True),
        sa.Column("release", sa.String(length=128), nullable=False),
        sa.Column("amount", WeiColumn(), nullable=False),
        sa.Column("state", sa.String(length=128), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("closed_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.PrimaryKeyConstraint("receipt", name=op.f("pk_holds")),
    )
    op.create_index(
        op.f("ix_holds_gateway_payer_state"), "holds", ["gateway", "payer", "state"], unique=False
    )
    op.create_index(
        op.f("ix_holds_state_expires_at"), "holds", ["state", "expires_at"], unique=False
    )
    op.create_table(
        "payer_books",
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("payer", sa.String(length=42), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("total", WeiColumn(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "payer", name=op.f("pk_payer_books")),
    )
    op.create_table(
        "vouchers",
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("payer", sa.String(length=42), nullable=False),
        sa.Column("channel_id", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.LargeBinary(), nullable=False),
        sa.Column("limit", WeiColumn(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("gateway", "payer", name=op.f("pk_vouchers")),
    )
    op.create_table(
        "call_receipts",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("gateway_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("payer", sa.String(length=42), nullable=False),
        sa.Column("payer_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("release", sa.String(length=128), nullable=False),
        sa.Column("api_key", sa.String(length=128), nullable=True),
        sa.Column("fee", WeiColumn(), nullable=False),
        sa.Column("payer_total", WeiColumn(), nullable=False),
        sa.Column("gateway_total", WeiColumn(), nullable=False),
        sa.Column("key_total", WeiColumn(), nullable=True),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("payer_salt", sa.LargeBinary(), nullable=False),
        sa.Column("private", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["id"], ["holds.receipt"], name=op.f("fk_call_receipts_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_call_receipts")),
        sa.UniqueConstraint("digest", name=op.f("uq_call_receipts_digest")),
        sa.UniqueConstraint(
            "gateway", "gateway_sequence", name=op.f("uq_call_receipts_gateway_gateway_sequence")
        ),
        sa.UniqueConstraint(
            "gateway",
            "payer",
            "payer_sequence",
            name=op.f("uq_call_receipts_gateway_payer_payer_sequence"),
        ),
    )
    op.create_index(
        op.f("ix_call_receipts_gateway_api_key_gateway_sequence"),
        "call_receipts",
        ["gateway", "api_key", "gateway_sequence"],
        unique=False,
    )
    op.create_index(
        op.f("ix_call_receipts_payer_created_at"),
        "call_receipts",
        ["payer", "created_at"],
        unique=False,
    )
    op.create_index(op.f("ix_call_receipts_release"), "call_receipts", ["release"], unique=False)
    op.create_table(
        "payouts",
        sa.Column("gateway", sa.String(length=42), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cumulative", WeiColumn(), nullable=False),
        sa.ForeignKeyConstraint(
            ["gateway", "epoch"],
            ["epochs.gateway", "epochs.number"],
            name=op.f("fk_payouts_gateway_epoch"),
        ),
        sa.PrimaryKeyConstraint("gateway", "epoch", "account", name=op.f("pk_payouts")),
        sa.UniqueConstraint(
            "gateway", "epoch", "index", name=op.f("uq_payouts_gateway_epoch_index")
        ),
    )
    op.create_index(op.f("ix_payouts_account"), "payouts", ["account"], unique=False)
    op.create_table(
        "statements",
        sa.Column("receipt", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["receipt"], ["call_receipts.id"], name=op.f("fk_statements_receipt")
        ),
        sa.PrimaryKeyConstraint("receipt", name=op.f("pk_statements")),
        sa.UniqueConstraint("digest", name=op.f("uq_statements_digest")),
    )


def downgrade() -> None:
    """Drop them, with all they hold."""
    op.drop_table("statements")
    op.drop_table("payouts")
    op.drop_table("call_receipts")
    op.drop_table("vouchers")
    op.drop_table("payer_books")
    op.drop_table("holds")
    op.drop_table("gateway_books")
    op.drop_table("escrow_balances")
    op.drop_table("epochs")
    op.drop_table("claims")
