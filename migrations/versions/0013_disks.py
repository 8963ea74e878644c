"""Let volumes be EXTENDING, and VMs be built from a snapshot or boot from a volume.

Earlier code keeps working: it never writes the new columns. It cannot show a volume while it is EXTENDING.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATUSES = ("ATTACHING", "AVAILABLE", "CREATING", "DELETED", "DELETING", "DETACHING", "ERROR", "IN_USE")


def upgrade() -> None:
    """Apply the change."""
    _replace_check(*STATUSES, "EXTENDING")
    for column in ("snapshot_id", "boot_volume_id"):
        op.add_column("vms", sa.Column(column, sa.Uuid(), nullable=True))
    op.add_column("volumes", sa.Column("image_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_volumes_image_id"), "volumes", "images", ["image_id"], ["id"])


def downgrade() -> None:
    """Revert the change. A volume that is being extended becomes what it was before."""
    op.drop_column("volumes", "image_id")
    for column in ("boot_volume_id", "snapshot_id"):
        op.drop_column("vms", column)
    op.execute(
        "UPDATE volumes SET status = CASE WHEN EXISTS "
        "(SELECT FROM attachments WHERE attachments.volume_id = volumes.id) "
        "THEN 'IN_USE' ELSE 'AVAILABLE' END WHERE status = 'EXTENDING'"
    )
    _replace_check(*STATUSES)


def _replace_check(*statuses: str) -> None:
    listed = ", ".join(f"'{status}'" for status in sorted(statuses))
    op.drop_constraint(op.f("ck_volumes_status"), "volumes")
    op.create_check_constraint(op.f("ck_volumes_status"), "volumes", f"status IN ({listed})")
