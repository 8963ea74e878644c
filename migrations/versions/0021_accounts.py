"""Add roles, disabled accounts and the epochs of logins, and the end of a login. Earlier code knows none of them.

A trigger notes which transaction has changed an account's epoch, so that every process can follow the changes. The
function is that of migration 0015.

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

from domain.data.base import XID8

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# Built beside requests, before this migration runs. The other indexes have no rows yet.
INDEXES_SINCE = "0001"
INDEXES = {"ix_users_created": "users (created_at, id)"}
ADDED = ("role", "disabled_at", "epoch", "epoch_at", "changed")


def upgrade() -> None:
    """Apply the change."""
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")
    op.add_column("users", sa.Column("role", sa.Text(), server_default="user", nullable=False))
    op.add_column("users", sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("users", sa.Column("epoch", sa.Integer(), server_default="0", nullable=False))
    op.add_column("users", sa.Column("epoch_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("users", sa.Column("changed", XID8(), nullable=True))
    op.create_check_constraint(op.f("ck_users_role"), "users", "role IN ('admin', 'user')")
    op.create_index("ix_users_admins", "users", ["created_at", "id"], postgresql_where=sa.text("role = 'admin'"))
    op.create_index(
        "ix_users_disabled", "users", ["created_at", "id"], postgresql_where=sa.text("disabled_at IS NOT NULL")
    )
    op.create_index("ix_users_epoch_at", "users", ["epoch_at"], postgresql_where=sa.text("epoch_at IS NOT NULL"))
    op.create_index("ix_users_changed", "users", ["changed"], postgresql_where=sa.text("changed IS NOT NULL"))
    op.execute("CREATE TRIGGER note_change BEFORE UPDATE OF epoch ON users FOR EACH ROW EXECUTE FUNCTION note_change()")
    op.add_column("refresh_tokens", sa.Column("login_ends_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Revert the change. Disabled accounts can log in again, and nobody is an admin."""
    op.drop_column("refresh_tokens", "login_ends_at")
    op.execute("DROP TRIGGER note_change ON users")
    for column in reversed(ADDED):
        op.drop_column("users", column)
    for name in INDEXES:
        op.drop_index(name)
