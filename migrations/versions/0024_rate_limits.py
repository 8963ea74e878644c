"""Add what callers have used of their rate limits, and the API processes that are there. Earlier code knows neither.

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "rate_uses",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("busy_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_rate_uses")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "api_processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_processes")),
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    """Revert the change. Each process then begins to count anew."""
    op.drop_table("api_processes")
    op.drop_table("rate_uses")
