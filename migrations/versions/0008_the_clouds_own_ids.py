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
CHOSEN = (("interfaces", "ip_address"), ("interfaces", "mac_address"), ("attachments", "device"))


def upgrade() -> None:
    """Apply the change."""
    for table in TABLES:
        op.add_column(table, sa.Column("cloud_id", sa.Text(), nullable=True))
    op.add_column("networks", sa.Column("allocates", sa.Boolean(), nullable=False, server_default="true"))
    for table, column in CHOSEN:
        op.alter_column(table, column, nullable=True)


def downgrade() -> None:
    """Revert the change. What only the cloud knows becomes a text that is unique and no address."""
    for table, column in CHOSEN:
        key = "volume_id" if table == "attachments" else "id"
        op.execute(f"UPDATE {table} SET {column} = {key}::text WHERE {column} IS NULL")  # noqa: S608 - constants
        op.alter_column(table, column, nullable=False)
    op.drop_column("networks", "allocates")
    for table in reversed(TABLES):
        op.drop_column(table, "cloud_id")
