"""Add the index by which operations wait for their turn by user instead of by project.

`migrations/indexes.py` builds it beside requests before this runs. Earlier code keeps working, with its own index.

Revision ID: 0028
Revises: 0027
"""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0026"
INDEXES = {
    "ix_operations_turns": "operations (actor, deliver_after, id) WHERE status = 'QUEUED' AND deliveries = 0",
}
"""The indexes by name, each with its table, columns and condition."""


def upgrade() -> None:
    """Apply the change; indexes that exist already are left alone."""
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")


def downgrade() -> None:
    """Revert the change."""
    op.drop_index("ix_operations_turns")
