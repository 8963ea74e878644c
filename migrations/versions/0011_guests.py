"""Add the tables of SSH keys, user data and answers of consoles. Earlier code keeps working: it does not know them.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "ssh_keys",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_ssh_keys_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "name", name=op.f("pk_ssh_keys")),
    )
    op.create_table(
        "user_data",
        sa.Column("vm_id", sa.Uuid(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"], name=op.f("fk_user_data_vm_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("vm_id", name=op.f("pk_user_data")),
    )
    op.create_table(
        "console_answers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_console_answers")),
    )
    op.create_index(op.f("ix_console_answers_created_at"), "console_answers", ["created_at"])


def downgrade() -> None:
    """Revert the change. VMs keep the keys and the user data that they have."""
    for table in ("console_answers", "user_data", "ssh_keys"):
        op.drop_table(table)
