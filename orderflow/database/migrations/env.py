"""Alembic's entry, for every service: its database, and the revisions in its own `migrations` folder."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
