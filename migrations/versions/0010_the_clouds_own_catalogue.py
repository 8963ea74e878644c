"""Let the catalogue be a cloud's own: names may repeat, some facts may be missing, and things go away.

Earlier code keeps working. It shows and accepts everything that is in the tables, and it runs only with the catalogue
of the mock cloud, of which nothing goes away.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = ("flavors", "images", "networks")
# The columns that become nullable, each with the value that stands for NULL after a downgrade.
UNKNOWN = (
    ("images", "os_distro", "''"),
    ("images", "os_version", "''"),
    ("networks", "gateway", "host(cidr::inet)"),
)


def upgrade() -> None:
    """Apply the change."""
    op.add_column("flavors", sa.Column("cloud_id", sa.Text(), nullable=True))
    for table in TABLES:
        op.add_column(table, sa.Column("is_available", sa.Boolean(), nullable=False, server_default="true"))
        op.drop_constraint(f"uq_{table}_name", table)
    for table, column, _ in UNKNOWN:
        op.alter_column(table, column, nullable=True)


def downgrade() -> None:
    """Revert the change. Of rows with the same name, all but one get their id into the name."""
    for table, column, value in UNKNOWN:
        op.execute(f"UPDATE {table} SET {column} = {value} WHERE {column} IS NULL")  # noqa: S608 - constants
        op.alter_column(table, column, nullable=False)
    for table in TABLES:
        op.execute(
            f"UPDATE {table} AS later SET name = name || ' ' || id "  # noqa: S608 - constants
            f"WHERE EXISTS (SELECT FROM {table} AS first WHERE first.name = later.name AND first.id < later.id)"
        )
        op.create_unique_constraint(f"uq_{table}_name", table, ["name"])
        op.drop_column(table, "is_available")
    op.drop_column("flavors", "cloud_id")
