"""Add the tables about the cloud: which one it is, and what servers in it belong to no VM.

Earlier code does not know them.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "found_servers",
        sa.Column("cloud_id", sa.Text(), nullable=False),
        sa.Column("vm_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("ram_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=True),
        sa.Column("volumes", postgresql.JSONB(), nullable=False),
        sa.Column("interfaces", postgresql.JSONB(), nullable=False),
        sa.Column("obstacle", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("cloud_id", name="pk_found_servers"),
    )
    op.create_index("ix_found_servers_name", "found_servers", ["name", "cloud_id"])
    op.create_table(
        "bound_cloud",
        sa.Column("is_bound", sa.Boolean(), nullable=False, server_default="true"),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("bound_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("is_bound", name="pk_bound_cloud"),
        sa.CheckConstraint("is_bound", name="is_bound"),
    )


def downgrade() -> None:
    """Revert the change."""
    op.drop_table("bound_cloud")
    op.drop_table("found_servers")
