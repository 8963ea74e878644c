"""Let each id of the cloud belong to one row.

Earlier code keeps working: it never writes `cloud_id`.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0008"
INDEXES = {
    "uq_vms_cloud_id": "vms (cloud_id) WHERE cloud_id IS NOT NULL",
    "uq_snapshots_cloud_id": "snapshots (cloud_id) WHERE cloud_id IS NOT NULL",
    "uq_volumes_cloud_id": "volumes (cloud_id) WHERE cloud_id IS NOT NULL",
    "uq_interfaces_cloud_id": "interfaces (cloud_id) WHERE cloud_id IS NOT NULL",
}
"""The unique indexes by name, each with its table, column and condition."""


def upgrade() -> None:
    """Apply the change; indexes that exist already are left alone."""
    for name, definition in INDEXES.items():
        op.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {name} ON {definition}")


def downgrade() -> None:
    """Revert the change."""
    for name in reversed(INDEXES):
        op.drop_index(name)
