"""Add the users whom an identity provider names: they have neither a password nor an e-mail address.

Earlier code keeps working: it gives both to each account that it makes, and refuses the password of one without.

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

NO_PASSWORD = "$2b$12$kl5D8HOrRAmz13ChIWzmjexOzVAdP1p3nbLB6ap5S.0lQ5EKxk3bC"  # noqa: S105 - the hash of no known text


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "identities",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_identities_user_id")),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_identities")),
    )
    op.create_index("uq_identities_user_id", "identities", ["user_id"], unique=True)
    op.alter_column("users", "email", nullable=True)
    op.alter_column("users", "password_hash", nullable=True)


def downgrade() -> None:
    """Revert the change. The users of the identity provider keep what they have, and can no longer reach it."""
    op.execute("UPDATE users SET email = id || '@identity.invalid' WHERE email IS NULL")
    op.execute(f"UPDATE users SET password_hash = '{NO_PASSWORD}' WHERE password_hash IS NULL")  # noqa: S608
    op.alter_column("users", "password_hash", nullable=False)
    op.alter_column("users", "email", nullable=False)
    op.drop_table("identities")
