"""Add the tokens for programs, and what tells a repeated refresh from a stolen token. Earlier code knows neither.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "program_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_program_tokens_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_program_tokens")),
    )
    op.create_index("uq_program_tokens_digest", "program_tokens", ["digest"], unique=True)
    op.create_index("uq_program_tokens_name", "program_tokens", ["owner_id", "name"], unique=True)
    op.create_index(op.f("ix_program_tokens_expires_at"), "program_tokens", ["expires_at"])
    op.add_column("refresh_tokens", sa.Column("generation", sa.Integer(), nullable=True))
    op.add_column("refresh_tokens", sa.Column("used_from", sa.Text(), nullable=True))


def downgrade() -> None:
    """Revert the change. The programs that have tokens can no longer log in."""
    op.drop_column("refresh_tokens", "used_from")
    op.drop_column("refresh_tokens", "generation")
    op.drop_table("program_tokens")
