"""Note since when the cloud no longer offers a row of the catalogue, so that it can be deleted in the end.

What is not offered now counts from now on. Earlier code keeps working: what it withdraws gets its time at the next
reading by this version, and what it offers again is not deleted, whatever its time is.

Revision ID: 0031
Revises: 0030
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

TABLES = ("flavors", "images", "networks", "security_groups", "availability_zones")


def upgrade() -> None:
    """Apply the change."""
    for table in TABLES:
        op.add_column(table, sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
        op.execute(f"UPDATE {table} SET withdrawn_at = now() WHERE NOT is_available")  # noqa: S608 - constants


def downgrade() -> None:
    """Revert the change. Rows that were deleted stay so: nothing needs them."""
    for table in TABLES:
        op.drop_column(table, "withdrawn_at")
