"""Alembic's entry point; it runs the migrations on the connection that the caller passes in."""

from alembic import context

from domain.data.base import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
