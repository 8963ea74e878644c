"""Add indexes for lists of any length and for the deletion of old rows, and `operations.signaled_run`.

Earlier code keeps working: it uses neither. `migrations/indexes.py` builds the indexes beside requests, before this
migration runs, because building them here would block all writes for seconds on tables with millions of rows.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0005"
INDEXES = {
    "ix_vms_live_created": "vms (owner_id, created_at, id) WHERE status <> 'DELETED'",
    "ix_vms_live_updated": "vms (owner_id, updated_at, id) WHERE status <> 'DELETED'",
    "ix_vms_live_name": "vms (owner_id, name, id) WHERE status <> 'DELETED'",
    "ix_vms_owner_status": "vms (owner_id, status, id)",
    "ix_vms_deleted": "vms (updated_at, id) WHERE status = 'DELETED'",
    "ix_vms_error": "vms (updated_at) WHERE status = 'ERROR'",
    "ix_vms_busy": "vms (operation_id) WHERE task_state IS NOT NULL",
    "ix_snapshots_live_created": "snapshots (vm_id, created_at, id) WHERE status <> 'DELETED'",
    "ix_snapshots_deleted": "snapshots (updated_at, id) WHERE status = 'DELETED'",
    "ix_snapshots_error": "snapshots (updated_at) WHERE status = 'ERROR'",
    "ix_volumes_live_created": "volumes (owner_id, created_at, id) WHERE status <> 'DELETED'",
    "ix_volumes_owner_status": "volumes (owner_id, status, id)",
    "ix_volumes_deleted": "volumes (updated_at, id) WHERE status = 'DELETED'",
    "ix_volumes_error": "volumes (updated_at) WHERE status = 'ERROR'",
    "ix_operations_owner_status": "operations (owner_id, status, created_at, id)",
    "ix_operations_finished": "operations (finished_at, id) WHERE finished_at IS NOT NULL",
    "ix_operations_interrupted": "operations (finished_at) WHERE interruption IS NOT NULL",
    "ix_operations_retry_of": "operations (retry_of) WHERE retry_of IS NOT NULL",
    "ix_findings_resolved": "findings (resolved_at, id) WHERE resolved_at IS NOT NULL",
}
"""The indexes by name, each with its table, columns and condition."""


def upgrade() -> None:
    """Apply the change; indexes that exist already are left alone."""
    op.add_column("operations", sa.Column("signaled_run", sa.Text(), nullable=True))
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")


def downgrade() -> None:
    """Revert the change."""
    for name in reversed(INDEXES):
        op.drop_index(name)
    op.drop_column("operations", "signaled_run")
