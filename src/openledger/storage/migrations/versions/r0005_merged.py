"""Who built what a release was merged from."""

import sqlalchemy as sa
from alembic import op

revision = "0005_merged"
down_revision = "0004_private"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the column."""
    op.add_column("releases", sa.Column("parents", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Drop it, with all it holds."""
    op.drop_column("releases", "parents")
