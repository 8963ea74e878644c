"""Only a VM whose resize waits for a confirm may have `confirm_by`.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change; earlier code never set the column, so no row breaks the constraint."""
    op.create_check_constraint(op.f("ck_vms_confirm_by"), "vms", "confirm_by IS NULL OR status = 'VERIFY_RESIZE'")


def downgrade() -> None:
    """Revert the change."""
    op.drop_constraint(op.f("ck_vms_confirm_by"), "vms", type_="check")
