"""Add whether a member has taken a role. Earlier code gives everybody a role that counts as taken, as it was before.

Revision ID: 0025
Revises: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column("project_members", sa.Column("accepted", sa.Boolean(), server_default=sa.true(), nullable=False))


def downgrade() -> None:
    """Revert the change. An owner whom nobody has asked is then one like all others."""
    op.drop_column("project_members", "accepted")
