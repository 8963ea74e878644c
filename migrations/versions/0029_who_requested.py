"""Add the id of the user who requested an operation, by which operations wait for their turn.

Earlier code does not set it. What it requests waits for the turn of its project meanwhile.

Revision ID: 0029
Revises: 0028
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column("operations", sa.Column("requested_by", sa.Uuid(), nullable=True))


def downgrade() -> None:
    """Revert the change."""
    op.drop_column("operations", "requested_by")
