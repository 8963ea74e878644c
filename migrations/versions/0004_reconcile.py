"""Add columns for cancel, and the table of findings. Earlier code keeps working, because it does not use them.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column("operations", sa.Column("interruption", sa.Text(), nullable=True))
    op.add_column("operations", sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("operations", sa.Column("cancel_requested_by", sa.Text(), nullable=True))
    # An operation that is delivered again keeps its `started_at`, so the index must not depend on it any more.
    op.drop_index("ix_operations_outbox", "operations")
    op.create_index(
        "ix_operations_outbox", "operations", ["deliver_after"], postgresql_where=sa.text("status = 'QUEUED'")
    )
    op.create_index(
        "ix_operations_looks",
        "operations",
        ["deliver_after"],
        postgresql_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
    )
    op.create_index("ix_vms_confirm_by", "vms", ["confirm_by"], postgresql_where=sa.text("confirm_by IS NOT NULL"))
    op.create_table(
        "findings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=False),
        sa.Column("seen", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
    )
    op.create_index(
        "uq_findings_open",
        "findings",
        ["kind", "resource_id"],
        unique=True,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )


def downgrade() -> None:
    """Revert the change and delete the operations that earlier code cannot read."""
    op.execute("DELETE FROM operations WHERE action = 'reset-state'")
    op.drop_table("findings")
    op.drop_index("ix_vms_confirm_by", "vms")
    op.drop_index("ix_operations_looks", "operations")
    op.drop_index("ix_operations_outbox", "operations")
    op.create_index(
        "ix_operations_outbox",
        "operations",
        ["deliver_after"],
        postgresql_where=sa.text("status = 'QUEUED' AND started_at IS NULL"),
    )
    for column in ("cancel_requested_by", "cancel_requested_at", "interruption"):
        op.drop_column("operations", column)
