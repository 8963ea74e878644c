"""Add the ids that the cloud gives to servers, volumes, images and ports, and what the cloud may choose itself.

Earlier code keeps working: it never writes `cloud_id`, and the rows of its networks have all their addresses. 0009 has
the unique indexes on the new columns, so that they are built beside requests.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = ("vms", "snapshots", "volumes", "interfaces")


def upgrade() -> None:
    """Apply the change."""
    for table in TABLES:
        op.add_column(table, sa.Column("cloud_id", sa.Text(), nullable=True))


def downgrade() -> None:
    """Revert the change."""
    for table in reversed(TABLES):
        op.drop_column(table, "cloud_id")
