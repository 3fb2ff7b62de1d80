"""People, data and models."""

import sqlalchemy as sa
from alembic import op

from openledger.storage.tables.columns import WeiColumn

revision = "0001_data"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "accounts",
        sa.Column("address", sa.String(length=42), nullable=False),
        sa.Column("label", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=128), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("address", name=op.f("pk_accounts")),
        sa.UniqueConstraint("label", name=op.f("uq_accounts_label")),
    )
    op.create_table(
        "datanets",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("owner", sa.String(length=42), nullable=False),
        sa.Column("slug", sa.String(length=128), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("rules", sa.LargeBinary(), nullable=False),
        sa.Column("data_floor_bps", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("withdrawal_days", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datanets")),
        sa.UniqueConstraint("number", name=op.f("uq_datanets_number")),
        sa.UniqueConstraint("owner", "slug", name=op.f("uq_datanets_owner_slug")),
    )
    op.create_table(
        "training_runs",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("op", sa.String(length=64), nullable=False),
        sa.Column("builder", sa.String(length=42), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=128), nullable=False),
        sa.Column("recipe", sa.LargeBinary(), nullable=False),
        sa.Column("versions", sa.LargeBinary(), nullable=False),
        sa.Column("manifest_root", sa.String(length=64), nullable=False),
        sa.Column("manifest_size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("seed", sa.String(length=64), nullable=True),
        sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("steps", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seconds_left", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("metrics", sa.LargeBinary(), nullable=True),
        sa.Column("adapter", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("updated_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_runs")),
        sa.UniqueConstraint("number", name=op.f("uq_training_runs_number")),
        sa.UniqueConstraint("op", name=op.f("uq_training_runs_op")),
    )
    op.create_index(op.f("ix_training_runs_builder"), "training_runs", ["builder"], unique=False)
    op.create_table(
        "vault_keys",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("destroyed_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vault_keys")),
    )
    op.create_table(
        "api_keys",
        sa.Column("prefix", sa.String(length=128), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("total_cap", WeiColumn(), nullable=True),
        sa.Column("daily_cap", WeiColumn(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.address"], name=op.f("fk_api_keys_account")
        ),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_keys_hash")),
    )
    op.create_index(op.f("ix_api_keys_account"), "api_keys", ["account"], unique=False)
    op.create_table(
        "contributions",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("datanet", sa.String(length=128), nullable=False),
        sa.Column("contributor", sa.String(length=42), nullable=False),
        sa.Column("raw_digest", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("claim", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("on_behalf", sa.Boolean(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(length=128), nullable=False),
        sa.Column("commitment", sa.String(length=64), nullable=True),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("root", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("manifest", sa.String(length=64), nullable=True),
        sa.Column("manifest_blob", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("updated_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["datanet"], ["datanets.id"], name=op.f("fk_contributions_datanet")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contributions")),
        sa.UniqueConstraint("commitment", name=op.f("uq_contributions_commitment")),
        sa.UniqueConstraint(
            "datanet",
            "contributor",
            "raw_digest",
            name=op.f("uq_contributions_datanet_contributor_raw_digest"),
        ),
        sa.UniqueConstraint("number", name=op.f("uq_contributions_number")),
    )
    op.create_index(
        op.f("ix_contributions_contributor"), "contributions", ["contributor"], unique=False
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("builder", sa.String(length=42), nullable=False),
        sa.Column("run", sa.String(length=128), nullable=False),
        sa.Column("base", sa.String(length=64), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("training_root", sa.String(length=64), nullable=False),
        sa.Column("training_size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("card", sa.LargeBinary(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("terms_version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("deprecated_at", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.ForeignKeyConstraint(["run"], ["training_runs.id"], name=op.f("fk_releases_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_releases")),
        sa.UniqueConstraint("number", name=op.f("uq_releases_number")),
        sa.UniqueConstraint(
            "owner", "name", "version", name=op.f("uq_releases_owner_name_version")
        ),
        sa.UniqueConstraint("run", name=op.f("uq_releases_run")),
    )
    op.create_table(
        "documents",
        sa.Column("contribution", sa.String(length=128), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("contributor_name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["contribution"], ["contributions.id"], name=op.f("fk_documents_contribution")
        ),
        sa.PrimaryKeyConstraint("contribution", "position", name=op.f("pk_documents")),
    )
    op.create_table(
        "duplicate_index",
        sa.Column("keyed_digest", sa.String(length=64), nullable=False),
        sa.Column("contribution", sa.String(length=128), nullable=False),
        sa.Column("document", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["contribution"], ["contributions.id"], name=op.f("fk_duplicate_index_contribution")
        ),
        sa.PrimaryKeyConstraint("keyed_digest", name=op.f("pk_duplicate_index")),
    )
    op.create_index(
        op.f("ix_duplicate_index_contribution"), "duplicate_index", ["contribution"], unique=False
    )
    op.create_table(
        "release_terms",
        sa.Column("release", sa.String(length=128), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("terms", sa.LargeBinary(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["release"], ["releases.id"], name=op.f("fk_release_terms_release")
        ),
        sa.PrimaryKeyConstraint("release", "version", name=op.f("pk_release_terms")),
    )
    op.create_table(
        "chunks",
        sa.Column("contribution", sa.String(length=128), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("document", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("blob", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["contribution", "document"],
            ["documents.contribution", "documents.position"],
            name=op.f("fk_chunks_contribution_document"),
        ),
        sa.PrimaryKeyConstraint("contribution", "position", name=op.f("pk_chunks")),
    )
    op.create_index(op.f("ix_chunks_digest"), "chunks", ["digest"], unique=False)


def downgrade() -> None:
    """Drop them, with all they hold."""
    op.drop_table("chunks")
    op.drop_table("release_terms")
    op.drop_table("duplicate_index")
    op.drop_table("documents")
    op.drop_table("releases")
    op.drop_table("contributions")
    op.drop_table("api_keys")
    op.drop_table("vault_keys")
    op.drop_table("training_runs")
    op.drop_table("datanets")
    op.drop_table("accounts")
