"""Openings of attribution states, and the query vectors of statements."""

import sqlalchemy as sa
from alembic import op

revision = "0004_private"
down_revision = "0003_work"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and the column."""
    op.create_table(
        "state_openings",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("run", sa.String(length=128), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("purpose", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_state_openings")),
        sa.ForeignKeyConstraint(
            ["run"], ["training_runs.id"], name=op.f("fk_state_openings_run_training_runs")
        ),
    )
    op.create_index(op.f("ix_state_openings_run"), "state_openings", ["run"], unique=False)
    op.add_column("statements", sa.Column("vectors", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Drop them, with all they hold."""
    op.drop_column("statements", "vectors")
    op.drop_table("state_openings")
