"""Add the index of the terms that resources are searched by, and one for the filter of operations by their action.

Before it runs, `migrations/indexes.py` gives the rows that are older than the triggers of 0026 their terms, and then
builds the indexes, both beside requests. Earlier code keeps working: it uses neither.

Revision ID: 0027
Revises: 0026
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def _fill(table: str, kind: str) -> str:
    # A row is locked while its terms are added, so that they cannot outlive it. Terms that are there already come from
    # a trigger, and are newer.
    return f"""
        DO $$
        DECLARE
            place uuid := '00000000-0000-0000-0000-000000000000';
        BEGIN
            WHILE place IS NOT NULL LOOP
                WITH old AS (
                    SELECT id, owner_id, name, labels FROM {table} WHERE id > place ORDER BY id LIMIT 1000 FOR KEY SHARE
                ), added AS (
                    INSERT INTO search_terms (id, terms)
                    SELECT id, search_terms_of('{kind}', owner_id, name, labels) FROM old ON CONFLICT (id) DO NOTHING
                )
                SELECT (array_agg(id ORDER BY id DESC))[1] INTO place FROM old;
                COMMIT;
            END LOOP;
        END $$
    """  # noqa: S608 - constants


FILL = [_fill(table, kind) for table, kind in (("vms", "v"), ("snapshots", "s"), ("volumes", "d"))]
"""Statements that run before the indexes are built, outside of a transaction; each commits by itself."""

INDEXES_SINCE = "0026"
# What a create adds waits in a list, which each search reads whole. Beyond so many kB it goes into the tree.
INDEXES = {
    "ix_search_terms": "search_terms USING gin (terms) WITH (gin_pending_list_limit = 256)",
    "ix_operations_owner_action": "operations (owner_id, action, created_at, id)",
}
"""The indexes by name, each with its table, columns and condition."""


def upgrade() -> None:
    """Apply the change; indexes that exist already are left alone."""
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")


def downgrade() -> None:
    """Revert the change."""
    for name in reversed(INDEXES):
        op.drop_index(name)
