"""Add the index by which operations wait for their turn by the id of the user, and drop that by project.

`migrations/indexes.py` builds it beside requests before this runs. Earlier code keeps working, with its own index by
the name of the user. The index by project is of the code before that.

`deliveries < 1` means the same as `deliveries = 0` in the index by name. But PostgreSQL does not know that, so it takes
only the new index for statements of this version. Of two that it believes to be empty it could take the worse one.

Revision ID: 0030
Revises: 0029
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0029"
INDEXES = {
    "ix_operations_users": "operations (coalesce(requested_by, owner_id), deliver_after, id) "
    "WHERE status = 'QUEUED' AND deliveries < 1",
}
"""The indexes by name, each with its table, columns and condition."""


def upgrade() -> None:
    """Apply the change; indexes that exist already are left alone."""
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")
    op.drop_index("ix_operations_outbox", "operations")


def downgrade() -> None:
    """Revert the change."""
    op.create_index(
        "ix_operations_outbox",
        "operations",
        ["owner_id", "deliver_after", "id"],
        postgresql_where=sa.text("status = 'QUEUED' AND deliveries = 0"),
    )
    op.drop_index("ix_operations_users")
