"""Index `changed`, so that a process finds what has changed since it looked last.

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0015"
INDEXES = {f"ix_{table}_changed": f"{table} (changed)" for table in ("vms", "snapshots", "volumes", "operations")}
"""The indexes by name, each with its table and column."""


def upgrade() -> None:
    """Apply the change; indexes that exist already are left alone."""
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")


def downgrade() -> None:
    """Revert the change."""
    for name in INDEXES:
        op.drop_index(name)
