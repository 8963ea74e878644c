"""Add `changed` to what clients can follow: the transaction that changed a row last, written by a trigger.

Earlier code needs to know nothing of it: the trigger notes its changes, too. Rows that are older have NULL, because
they have not changed since.

Revision ID: 0015
Revises: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# The columns of an operation that clients see. Its other columns change with every delivery and every look.
SHOWN = (
    "status, step, progress, attempt, last_error, next_retry_at, error, cancel_requested_at, cancel_requested_by, "
    "workflow_id, retry_of, started_at, finished_at"
)
EVENTS = {"vms": "UPDATE", "snapshots": "UPDATE", "volumes": "UPDATE", "operations": f"UPDATE OF {SHOWN}"}


def upgrade() -> None:
    """Apply the change."""
    op.execute(
        """
        CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.changed := pg_current_xact_id();
            RETURN NEW;
        END
        $$
        """
    )
    for table, update in EVENTS.items():
        op.execute(f"ALTER TABLE {table} ADD COLUMN changed xid8")
        op.execute(
            f"CREATE TRIGGER note_change BEFORE INSERT OR {update} ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION note_change()"
        )


def downgrade() -> None:
    """Revert the change."""
    for table in EVENTS:
        op.execute(f"DROP TRIGGER note_change ON {table}")
        op.execute(f"ALTER TABLE {table} DROP COLUMN changed")
    op.execute("DROP FUNCTION note_change()")
