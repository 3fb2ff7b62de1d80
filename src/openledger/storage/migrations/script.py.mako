"""${message}."""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Drop them, with all they hold."""
    ${downgrades if downgrades else "pass"}
