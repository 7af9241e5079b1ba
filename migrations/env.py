"""Run by Alembic for each of its commands, on the connection that `migrations.upgrade` made."""

from alembic import context

from contract.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
    # SQLite can undo a change of schema as well: our engine says BEGIN itself.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
