"""Keep the cloud's security groups and availability zones, and what a VM's request said about them.

Earlier code keeps working: it neither reads nor writes the new tables and columns.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = {"security_groups": ("name", "description"), "availability_zones": ("name",)}
"""The new tables of the catalogue, each with its own columns."""


def upgrade() -> None:
    """Apply the change."""
    for table, columns in TABLES.items():
        op.create_table(
            table,
            sa.Column("id", sa.Uuid(), nullable=False),
            *(sa.Column(name, sa.Text(), nullable=False) for name in columns),
            sa.Column("is_available", sa.Boolean(), nullable=False, server_default="true"),
            sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
        )
    op.add_column("vms", sa.Column("availability_zone", sa.Text(), nullable=True))
    op.add_column("vms", sa.Column("security_groups", JSONB(), nullable=True))


def downgrade() -> None:
    """Revert the change."""
    op.drop_column("vms", "security_groups")
    op.drop_column("vms", "availability_zone")
    for table in reversed(TABLES):
        op.drop_table(table)
