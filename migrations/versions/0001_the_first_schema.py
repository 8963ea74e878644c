"""The first schema: users, catalogue, VMs, operations.

Revision ID: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATES = ", ".join(
    repr(state)
    for state in (
        "ACTIVE/",
        "ACTIVE/image_snapshot",
        "ACTIVE/image_uploading",
        "ACTIVE/powering_off",
        "ACTIVE/restoring",
        "BUILDING/networking",
        "BUILDING/scheduling",
        "BUILDING/spawning",
        "DELETED/",
        "DELETING/deleting",
        "ERROR/",
        "ERROR/powering_off",
        "REBOOTING/rebooting",
        "REBOOTING/rebooting_hard",
        "RESIZING/resize_finish",
        "RESIZING/resize_migrating",
        "RESIZING/resize_prep",
        "SHUTOFF/",
        "SHUTOFF/image_snapshot",
        "SHUTOFF/image_uploading",
        "SHUTOFF/powering_on",
        "SHUTOFF/restoring",
        "VERIFY_RESIZE/",
        "VERIFY_RESIZE/resize_confirming",
        "VERIFY_RESIZE/resize_reverting",
    )
)


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "flavors",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("ram_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flavors")),
        sa.UniqueConstraint("name", name=op.f("uq_flavors_name")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("os_distro", sa.Text(), nullable=False),
        sa.Column("os_version", sa.Text(), nullable=False),
        sa.Column("size_gb", sa.Integer(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("name", name=op.f("uq_images_name")),
    )
    op.create_index("uq_images_default", "images", ["is_default"], unique=True, postgresql_where=sa.text("is_default"))
    op.create_table(
        "networks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cidr", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_networks")),
        sa.UniqueConstraint("name", name=op.f("uq_networks_name")),
    )
    op.create_index(
        "uq_networks_default", "networks", ["is_default"], unique=True, postgresql_where=sa.text("is_default")
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("uq_users_email", "users", [sa.text("lower(email)")], unique=True)
    op.create_index("uq_users_username", "users", [sa.text("lower(username)")], unique=True)
    op.create_table(
        "refresh_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("family_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_refresh_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refresh_tokens")),
    )
    op.create_index(op.f("ix_refresh_tokens_expires_at"), "refresh_tokens", ["expires_at"], unique=False)
    op.create_index(op.f("ix_refresh_tokens_family_id"), "refresh_tokens", ["family_id"], unique=False)
    op.create_table(
        "vms",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("task_state", sa.String(32), nullable=True),
        sa.Column("flavor_id", sa.Uuid(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("fault", postgresql.JSONB(), nullable=True),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("confirm_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column("launched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("fault IS NULL OR status = 'ERROR'", name=op.f("ck_vms_fault")),
        sa.CheckConstraint(
            f"status || '/' || coalesce(task_state, '') IN ({STATES})",
            name=op.f("ck_vms_state"),
        ),
        sa.ForeignKeyConstraint(["flavor_id"], ["flavors.id"], name=op.f("fk_vms_flavor_id")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_vms_image_id")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_vms_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vms")),
    )
    op.create_index("ix_vms_owner_created", "vms", ["owner_id", "created_at", "id"], unique=False)
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("status", sa.String(32), server_default="QUEUED", nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=False),
        sa.Column("vm_id", sa.Uuid(), nullable=False),
        sa.Column("input", postgresql.JSONB(), nullable=False),
        sa.Column("previous_status", sa.String(32), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("step", sa.String(32), nullable=True),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("next_retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("retry_of", sa.Uuid(), nullable=True),
        sa.Column("deliver_after", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deliveries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("next_retry_at IS NULL OR finished_at IS NULL", name=op.f("ck_operations_retry")),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (status IN ('QUEUED', 'RUNNING'))", name=op.f("ck_operations_finished")
        ),
        sa.CheckConstraint(
            "status IN ('CANCELED', 'FAILED', 'QUEUED', 'RUNNING', 'SUCCEEDED', 'SUPERSEDED')",
            name=op.f("ck_operations_status"),
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_operations_owner_id")),
        sa.ForeignKeyConstraint(["retry_of"], ["operations.id"], name=op.f("fk_operations_retry_of")),
        sa.ForeignKeyConstraint(["vm_id"], ["vms.id"], name=op.f("fk_operations_vm_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index(
        "ix_operations_outbox",
        "operations",
        ["deliver_after"],
        unique=False,
        postgresql_where=sa.text("status = 'QUEUED' AND started_at IS NULL"),
    )
    op.create_index("ix_operations_owner_created", "operations", ["owner_id", "created_at", "id"], unique=False)
    op.create_index("ix_operations_vm_created", "operations", ["vm_id", "created_at", "id"], unique=False)


def downgrade() -> None:
    """Revert the change."""
    op.drop_index("ix_operations_vm_created", table_name="operations")
    op.drop_index("ix_operations_owner_created", table_name="operations")
    op.drop_index(
        "ix_operations_outbox",
        table_name="operations",
        postgresql_where=sa.text("status = 'QUEUED' AND started_at IS NULL"),
    )
    op.drop_table("operations")
    op.drop_index("ix_vms_owner_created", table_name="vms")
    op.drop_table("vms")
    op.drop_index(op.f("ix_refresh_tokens_family_id"), table_name="refresh_tokens")
    op.drop_index(op.f("ix_refresh_tokens_expires_at"), table_name="refresh_tokens")
    op.drop_table("refresh_tokens")
    op.drop_index("uq_users_username", table_name="users")
    op.drop_index("uq_users_email", table_name="users")
    op.drop_table("users")
    op.drop_index("uq_networks_default", table_name="networks", postgresql_where=sa.text("is_default"))
    op.drop_table("networks")
    op.drop_index("uq_images_default", table_name="images", postgresql_where=sa.text("is_default"))
    op.drop_table("images")
    op.drop_index(op.f("ix_idempotency_keys_created_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("flavors")
