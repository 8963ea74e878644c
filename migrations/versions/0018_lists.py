"""Add labels of volumes and snapshots, and indexes for the lists of changed VMs, of snapshots and of sorted volumes.

Earlier code keeps working: it leaves out the new column, which then is `{}`. `migrations/indexes.py` builds the indexes
beside requests, before this migration runs.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0003"
INDEXES = {
    "ix_vms_owner_updated": "vms (owner_id, updated_at, id)",
    "ix_snapshots_owner_created": "snapshots (owner_id, created_at, id)",
    "ix_snapshots_owner_live_created": "snapshots (owner_id, created_at, id) WHERE status <> 'DELETED'",
    "ix_snapshots_owner_live_updated": "snapshots (owner_id, updated_at, id) WHERE status <> 'DELETED'",
    "ix_snapshots_owner_live_name": "snapshots (owner_id, name, id) WHERE status <> 'DELETED'",
    "ix_snapshots_owner_status": "snapshots (owner_id, status, id)",
    "ix_volumes_live_updated": "volumes (owner_id, updated_at, id) WHERE status <> 'DELETED'",
    "ix_volumes_live_name": "volumes (owner_id, name, id) WHERE status <> 'DELETED'",
}
"""The indexes by name, each with its table, columns and condition."""


def upgrade() -> None:
    """Apply the change; indexes that exist already are left alone."""
    for table in ("snapshots", "volumes"):
        op.add_column(table, sa.Column("labels", postgresql.JSONB(), nullable=False, server_default="{}"))
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")


def downgrade() -> None:
    """Revert the change. The labels of volumes and snapshots are lost."""
    for name in reversed(INDEXES):
        op.drop_index(name)
    for table in ("volumes", "snapshots"):
        op.drop_column(table, "labels")
