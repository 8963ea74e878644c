"""Add snapshots, volumes, attachments and interfaces, and operations without a VM.

Existing VMs get an interface with addresses for each network that they were created with.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SNAPSHOT = "('AVAILABLE', 'CREATING', 'DELETED', 'DELETING', 'ERROR', 'RESTORING')"
VOLUME = "('ATTACHING', 'AVAILABLE', 'CREATING', 'DELETED', 'DELETING', 'DETACHING', 'ERROR', 'IN_USE')"
ATTACHMENT = "('ATTACHED', 'ATTACHING', 'DETACHING')"

# The n-th VM of a network, by age, gets the n-th address that is not the gateway's. VMs beyond the last address of a
# network get no interface there.
INTERFACES_OF_OLD_VMS = """
WITH created AS (
    SELECT vms.id AS vm_id, vms.status, vms.operation_id, vms.created_at,
           networks.id AS network_id, networks.cidr::inet AS cidr, networks.gateway,
           row_number() OVER (PARTITION BY networks.id ORDER BY vms.created_at, vms.id) AS number
    FROM vms
    JOIN operations ON operations.vm_id = vms.id AND operations.action = 'create'
    JOIN networks ON operations.input -> 'network_ids' ? networks.id::text
    WHERE vms.status <> 'DELETED' AND (vms.launched_at IS NOT NULL OR vms.status = 'BUILDING')
), placed AS (
    SELECT *, number + (set_masklen(cidr, 32) + number >= gateway::inet)::int AS place FROM created
)
INSERT INTO interfaces (vm_id, network_id, ip_address, mac_address, status, operation_id, created_at)
SELECT vm_id, network_id, host(set_masklen(cidr, 32) + place),
       regexp_replace('fa163e' || lpad(to_hex(row_number() OVER (ORDER BY network_id, place)), 6, '0'),
                      '(..)(?!$)', '\\1:', 'g'),
       CASE status WHEN 'BUILDING' THEN 'ATTACHING' WHEN 'DELETING' THEN 'DETACHING' ELSE 'ATTACHED' END,
       operation_id, created_at
FROM placed WHERE place < 2 ^ (32 - masklen(cidr)) - 1
"""


def upgrade() -> None:
    """Apply the change; stop processes of earlier versions first, as they cannot run the new operations."""
    op.alter_column("operations", "vm_id", nullable=True)
    op.alter_column("operations", "previous_status", nullable=True)
    op.add_column("vms", sa.Column("attaching", sa.Integer(), server_default="0", nullable=False))
    op.create_check_constraint(op.f("ck_vms_attaching"), "vms", "attaching >= 0")
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("vm_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("size_gb", sa.Integer(), nullable=False),
        sa.Column("flavor_id", sa.Uuid(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        *_common_columns(),
        sa.CheckConstraint(f"status IN {SNAPSHOT}", name=op.f("ck_snapshots_status")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_snapshots_owner_id")),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"], name=op.f("fk_snapshots_vm_id")),
        sa.ForeignKeyConstraint(["flavor_id"], ["flavors.id"], name=op.f("fk_snapshots_flavor_id")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_snapshots_image_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
    )
    op.create_index("ix_snapshots_vm_created", "snapshots", ["vm_id", "created_at", "id"])
    op.create_table(
        "volumes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size_gb", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        *_common_columns(),
        sa.CheckConstraint(f"status IN {VOLUME}", name=op.f("ck_volumes_status")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_volumes_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volumes")),
    )
    op.create_index("ix_volumes_operation", "volumes", ["operation_id"])
    op.create_index("ix_volumes_owner_created", "volumes", ["owner_id", "created_at", "id"])
    op.create_table(
        "attachments",
        sa.Column("volume_id", sa.Uuid(), nullable=False),
        sa.Column("vm_id", sa.Uuid(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("delete_on_termination", sa.Boolean(), nullable=False),
        *_common_columns(),
        sa.CheckConstraint(f"status IN {ATTACHMENT}", name=op.f("ck_attachments_status")),
        sa.ForeignKeyConstraint(["volume_id"], ["volumes.id"], name=op.f("fk_attachments_volume_id")),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"], name=op.f("fk_attachments_vm_id")),
        sa.PrimaryKeyConstraint("volume_id", name=op.f("pk_attachments")),
    )
    op.create_index("uq_attachments_device", "attachments", ["vm_id", "device"], unique=True)
    op.create_table(
        "interfaces",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("vm_id", sa.Uuid(), nullable=False),
        sa.Column("network_id", sa.Uuid(), nullable=False),
        sa.Column("ip_address", sa.Text(), nullable=False),
        sa.Column("mac_address", sa.Text(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        *_common_columns(),
        sa.CheckConstraint(f"status IN {ATTACHMENT}", name=op.f("ck_interfaces_status")),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"], name=op.f("fk_interfaces_vm_id")),
        sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name=op.f("fk_interfaces_network_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_interfaces")),
    )
    op.create_index("ix_interfaces_vm_created", "interfaces", ["vm_id", "created_at", "id"])
    op.create_index("uq_interfaces_ip_address", "interfaces", ["network_id", "ip_address"], unique=True)
    op.create_index("uq_interfaces_mac_address", "interfaces", ["mac_address"], unique=True)
    op.execute(INTERFACES_OF_OLD_VMS)


def _common_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    ]


def downgrade() -> None:
    """Revert the change and delete all resources but VMs, with their operations: earlier code cannot read them."""
    op.drop_table("interfaces")
    op.drop_table("attachments")
    op.drop_table("volumes")
    op.drop_table("snapshots")
    op.drop_constraint(op.f("ck_vms_attaching"), "vms", type_="check")
    op.drop_column("vms", "attaching")
    op.execute("DELETE FROM operations WHERE vm_id IS NULL OR previous_status IS NULL")
    op.alter_column("operations", "previous_status", nullable=False)
    op.alter_column("operations", "vm_id", nullable=False)
