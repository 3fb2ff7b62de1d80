"""Run migrations on the connection that `openledger.storage.schema` hands over."""

from alembic import context

from openledger.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
# The caller's transaction is the transaction: a half-applied migration is rolled back.
context.run_migrations()
