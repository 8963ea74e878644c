"""Index the outbox by owner, for the fair queue. Earlier code keeps working: the indexes still serve its queries.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column("operations", sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("ix_operations_outbox", "operations")
    op.create_index(
        "ix_operations_outbox",
        "operations",
        ["owner_id", "deliver_after", "id"],
        postgresql_where=sa.text("status = 'QUEUED' AND deliveries = 0"),
    )
    op.create_index(
        "ix_operations_delivered",
        "operations",
        ["owner_id"],
        postgresql_where=sa.text("status = 'QUEUED' AND deliveries > 0"),
    )
    op.drop_index("ix_operations_looks", "operations")
    op.create_index(
        "ix_operations_looks",
        "operations",
        ["deliver_after"],
        postgresql_where=sa.text("(status = 'RUNNING' OR status = 'QUEUED' AND deliveries > 0)"),
    )


def downgrade() -> None:
    """Revert the change."""
    op.drop_index("ix_operations_looks", "operations")
    op.create_index(
        "ix_operations_looks",
        "operations",
        ["deliver_after"],
        postgresql_where=sa.text("status IN ('QUEUED', 'RUNNING')"),
    )
    op.drop_index("ix_operations_delivered", "operations")
    op.drop_index("ix_operations_outbox", "operations")
    op.create_index(
        "ix_operations_outbox", "operations", ["deliver_after"], postgresql_where=sa.text("status = 'QUEUED'")
    )
    op.drop_column("operations", "delivered_at")
