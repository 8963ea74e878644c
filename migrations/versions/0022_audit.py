"""Add the audit: a table to which rows are only added. Earlier code does not write to it.

Triggers hold the rules, so that they hold for the owner of the table, too: the database sets the time of a row, no row
changes, and none goes before LEAST days. A role that may only INSERT and SELECT deletes old rows with the function
`delete_old_audit_events`, which runs with the rights of its owner.

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

LEAST = 30  # days; AUDIT_RETENTION_DAYS allows no less
INDEXED = {
    "ix_audit_events_at": "at, id",
    "ix_audit_events_event": "event, at, id",
    "ix_audit_events_actor": "lower(actor), at, id",
    "ix_audit_events_target": "lower(target), at, id",
    "ix_audit_events_address": "address, at, id",
}


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("count", sa.Integer(), server_default="1", nullable=False),
        sa.Column("details", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    for name, columns in INDEXED.items():
        op.execute(f"CREATE INDEX {name} ON audit_events ({columns})")
    op.execute(
        f"""
        CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                NEW.at := clock_timestamp();
                RETURN NEW;
            ELSIF TG_OP = 'DELETE' AND OLD.at < now() - interval '{LEAST} days' THEN
                RETURN OLD;
            END IF;
            RAISE 'the audit is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER keep_rows BEFORE INSERT OR UPDATE OR DELETE ON audit_events "
        "FOR EACH ROW EXECUTE FUNCTION keep_audit()"
    )
    op.execute(
        "CREATE TRIGGER keep_table BEFORE TRUNCATE ON audit_events FOR EACH STATEMENT EXECUTE FUNCTION keep_audit()"
    )
    # With the rights of its owner, so that the role that calls it needs no DELETE. Its own schema comes first, and the
    # one of temporary tables last: nobody can put another table in the place of ours.
    schema = op.get_bind().dialect.identifier_preparer.quote(op.get_bind().scalar(sa.text("SELECT current_schema()")))
    op.execute(
        f"""
        CREATE FUNCTION delete_old_audit_events(older_than interval, most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
        DECLARE
            deleted integer;
        BEGIN
            IF NOT has_table_privilege(session_user, 'audit_events', 'INSERT') THEN
                RAISE 'only a role that writes the audit may do this' USING ERRCODE = 'insufficient_privilege';
            END IF;
            DELETE FROM audit_events WHERE id IN (
                SELECT id FROM audit_events WHERE at < now() - greatest(older_than, interval '{LEAST} days')
                ORDER BY at LIMIT most
            );
            GET DIAGNOSTICS deleted = ROW_COUNT;
            RETURN deleted;
        END
        $$
        """  # noqa: S608 - a quoted name and a number
    )


def downgrade() -> None:
    """Revert the change. The audit is lost."""
    op.execute("DROP FUNCTION delete_old_audit_events(interval, integer)")
    op.drop_table("audit_events")
    op.execute("DROP FUNCTION keep_audit()")
