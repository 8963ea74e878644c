"""Let two interfaces have one hardware address if they are in different networks, as Neutron does.

`migrations/indexes.py` builds the index beside requests before this runs. Earlier code keeps working: it still draws
addresses that no interface has.

Revision ID: 0032
Revises: 0031
"""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0003"
INDEXES = {"uq_interfaces_mac_address_network": "interfaces (mac_address, network_id)"}
"""The indexes by name, each with its table and columns."""


def upgrade() -> None:
    """Apply the change; an index that exists already is left alone."""
    for name, definition in INDEXES.items():
        op.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {name} ON {definition}")
    op.drop_index("uq_interfaces_mac_address", "interfaces")


def downgrade() -> None:
    """Revert the change. Of interfaces with one address only the first keeps it."""
    op.execute(
        "UPDATE interfaces SET mac_address = NULL WHERE EXISTS (SELECT FROM interfaces AS first "
        "WHERE first.mac_address = interfaces.mac_address AND first.id < interfaces.id)"
    )
    op.create_index("uq_interfaces_mac_address", "interfaces", ["mac_address"], unique=True)
    for name in INDEXES:
        op.drop_index(name, "interfaces")
