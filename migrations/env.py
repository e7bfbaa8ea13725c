"""Alembic's entry: runs on the connection that `dunwell migrate` hands over, one transaction per migration."""

from __future__ import annotations

from alembic import context

from dunwell_server.platform.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True, include_schemas=True)
with context.begin_transaction():
    context.run_migrations()
