"""A time to confirm by is there only while a resize waits for it.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; no code before it has ever set the column."""
    op.create_check_constraint(op.f("ck_vms_confirm_by"), "vms", "confirm_by IS NULL OR status = 'VERIFY_RESIZE'")


def downgrade() -> None:
    """Take the change back."""
    op.drop_constraint(op.f("ck_vms_confirm_by"), "vms", type_="check")
