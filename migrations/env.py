"""Alembic runs this for each command, on the connection from `migrations.upgrade`."""

from alembic import context

from contract.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
    # SQLite can roll back a change of the schema, too, because our engine sends BEGIN itself.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
