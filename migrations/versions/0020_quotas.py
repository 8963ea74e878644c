"""Add quotas: the limits of projects, what each project uses, and triggers that count and check it.

Earlier code keeps working, and what it makes is counted and checked, too: it answers a request that goes beyond a limit
with 500. Writes to the counted tables wait for the few seconds in which the present rows are counted.

The foreign keys of 0019 are validated here, without its locks, because it is a transaction of its own (see
`migrations/indexes.py`).

Revision ID: 0020
Revises: 0019
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.quotas_0020 import FUNCTIONS, TRIGGERS

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

INDEXES_SINCE = "0019"
INDEXES: dict[str, str] = {}  # none, but this makes 0019 a transaction of its own

OF_PROJECTS = ("vms", "volumes", "snapshots", "operations")
LIMITS = (
    *("vms", "vcpus", "ram_mb", "volumes", "volume_gb", "snapshots"),
    *("addresses_per_network", "open_operations"),
)
COUNTED = (*LIMITS[:6], "open_operations")
RESERVED = {"vms": ("reserved_vcpus", "reserved_ram_mb"), "volumes": ("reserved_gb",)}

COUNT_ALL = """
    INSERT INTO project_usage
        (project_id, vms, vcpus, ram_mb, volumes, volume_gb, snapshots, open_operations, addresses)
    SELECT projects.id, coalesce(of_vms.number, 0), coalesce(of_vms.vcpus, 0), coalesce(of_vms.ram_mb, 0),
           coalesce(of_volumes.number, 0), coalesce(of_volumes.gb, 0), coalesce(of_snapshots.number, 0),
           coalesce(of_operations.number, 0), coalesce(of_networks.addresses, '{}')
    FROM projects
    LEFT JOIN (
        SELECT owner_id, count(*) AS number, sum(vcpus) AS vcpus, sum(ram_mb) AS ram_mb
        FROM vms JOIN flavors ON flavors.id = flavor_id WHERE status <> 'DELETED' GROUP BY owner_id
    ) AS of_vms ON of_vms.owner_id = projects.id
    LEFT JOIN (
        SELECT owner_id, count(*) AS number, sum(size_gb) AS gb
        FROM volumes WHERE status <> 'DELETED' GROUP BY owner_id
    ) AS of_volumes ON of_volumes.owner_id = projects.id
    LEFT JOIN (
        SELECT owner_id, count(*) AS number FROM snapshots WHERE status <> 'DELETED' GROUP BY owner_id
    ) AS of_snapshots ON of_snapshots.owner_id = projects.id
    LEFT JOIN (
        SELECT owner_id, count(*) AS number FROM operations
        WHERE status = 'QUEUED' AND deliveries = 0 OR status = 'RUNNING' OR status = 'QUEUED' AND deliveries > 0
        GROUP BY owner_id
    ) AS of_operations ON of_operations.owner_id = projects.id
    LEFT JOIN (
        SELECT owner_id, jsonb_object_agg(network_id, number) AS addresses FROM (
            SELECT owner_id, network_id, count(*) AS number
            FROM interfaces JOIN vms ON vms.id = vm_id GROUP BY owner_id, network_id
        ) AS by_network GROUP BY owner_id
    ) AS of_networks ON of_networks.owner_id = projects.id
"""


def _table(name: str, key: sa.Column[Any], *constraints: sa.Constraint, counts: bool = False) -> None:
    names = COUNTED if counts else LIMITS
    zero: dict[str, Any] = {"nullable": False, "server_default": "0"} if counts else {"nullable": True}
    op.create_table(name, key, *(sa.Column(each, sa.BigInteger(), **zero) for each in names), *constraints)


def _of_project(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_project_id")
    return sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    """Apply the change."""
    for table in OF_PROJECTS:
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT fk_{table}_owner_id")
    for table, columns in RESERVED.items():
        for column in columns:
            op.add_column(table, sa.Column(column, sa.Integer(), nullable=True))
    one: sa.Column[bool] = sa.Column("id", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    _table(
        "default_quotas",
        one,
        sa.CheckConstraint("id", name=op.f("ck_default_quotas_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_default_quotas")),
    )
    op.execute("INSERT INTO default_quotas DEFAULT VALUES")
    for table in ("project_quotas", "project_usage"):
        key = sa.Column("project_id", sa.Uuid(), nullable=False)
        primary = sa.PrimaryKeyConstraint("project_id", name=op.f(f"pk_{table}"))
        _table(table, key, _of_project(table), primary, counts=table == "project_usage")
    op.add_column("project_usage", sa.Column("addresses", postgresql.JSONB(), server_default="{}", nullable=False))
    for signature, body in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {signature} LANGUAGE plpgsql AS $$ {body} $$")
    # The triggers come first: their locks keep out changes until the present rows are counted.
    for trigger in TRIGGERS:
        op.execute(trigger)
    op.execute(COUNT_ALL)


def downgrade() -> None:
    """Revert the change."""
    op.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what this transaction has written is counted first
    for trigger in reversed(TRIGGERS):
        words = trigger.split()
        name, table = words[words.index("TRIGGER") + 1], words[words.index("ON") + 1]
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for signature in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature.partition('(')[0]}")
    for table in ("project_usage", "project_quotas", "default_quotas"):
        op.drop_table(table)
    for table, columns in RESERVED.items():
        for column in columns:
            op.drop_column(table, column)
