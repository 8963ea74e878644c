"""Add what resources are searched by: the parts of their names and their labels, kept by triggers.

Earlier code needs to know nothing of it: the triggers note its changes, too. Rows that are older get their terms beside
requests, before the next migration (`FILL` there, see `migrations/indexes.py`).

Revision ID: 0026
Revises: 0025
"""

from unicodedata import normalize

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

KINDS = {"vms": "v", "snapshots": "s", "volumes": "d"}
_CASED = [
    letter
    for letter in map(chr, range(0x20000))  # the planes that have letters with case
    if not "\ud800" <= letter <= "\udfff" and normalize("NFD", letter) == letter != letter.casefold()
]
_FOLDED = {letter: normalize("NFD", letter.casefold()) for letter in _CASED}
_TO_ONE = {letter: folded for letter, folded in _FOLDED.items() if len(folded) == 1}


def _folded(name: str) -> str:
    """The SQL of a name's form for searches: decomposed, without case (`text.search_runs` in Python).

    PostgreSQL's own functions know only the letters of the database's locale, and in the locale C only ASCII.
    """
    folded = f"translate(normalize({name}, NFD), '{''.join(_TO_ONE)}', '{''.join(_TO_ONE.values())}')"
    for letter, letters in _FOLDED.items():
        if len(letters) > 1:
            folded = f"replace({folded}, '{letter}', '{letters}')"
    return folded


# Each place of the name gives the three letters from there, or fewer at its end. So a part of three letters or more has
# terms of its own, and a shorter one is the beginning of some. A loop takes half the time of a query.
FUNCTIONS = {
    "search_terms_of(kind text, owner uuid, name text, labels jsonb) RETURNS tsvector": f"""
        DECLARE
            mark text := kind || left(owner::text, 6);
            plain text := lower(name COLLATE "C");
            terms text[];
        BEGIN
            IF octet_length(name) > char_length(name) THEN
                plain := {_folded("name")};
            END IF;
            FOR place IN 1..char_length(plain) LOOP
                terms[place] := mark || substr(plain, place, 3);
            END LOOP;
            IF labels <> '{{}}' THEN
                terms := terms || ARRAY(
                    SELECT 'l' || mark || left(key || '=' || CASE WHEN octet_length(value) = char_length(value)
                        THEN value ELSE normalize(value) END, 300)
                    FROM jsonb_each_text(labels)
                );
            END IF;
            RETURN array_to_tsvector(terms);
        END
    """,  # noqa: S608 - constants
    "note_search_terms() RETURNS trigger": """
        BEGIN
            INSERT INTO search_terms (id, terms)
            VALUES (NEW.id, search_terms_of(TG_ARGV[0], NEW.owner_id, NEW.name, NEW.labels));
            RETURN NULL;
        END
    """,
    # A row that is older than the triggers may have no terms yet.
    "renew_search_terms() RETURNS trigger": """
        BEGIN
            INSERT INTO search_terms (id, terms)
            VALUES (NEW.id, search_terms_of(TG_ARGV[0], NEW.owner_id, NEW.name, NEW.labels))
            ON CONFLICT (id) DO UPDATE SET terms = excluded.terms;
            RETURN NULL;
        END
    """,
    "forget_search_terms() RETURNS trigger": """
        BEGIN
            DELETE FROM search_terms WHERE id = OLD.id;
            RETURN NULL;
        END
    """,
}


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "search_terms",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("terms", postgresql.TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_terms")),
    )
    # The planner cannot see which terms are searched for, so it needs no statistics of them.
    op.execute("ALTER TABLE search_terms ALTER COLUMN terms SET STATISTICS 0")
    for head, body in FUNCTIONS.items():
        op.execute(sa.text(f"CREATE FUNCTION {head} LANGUAGE plpgsql AS $$ {body} $$".replace(":", "\\:")))
    changed = "(OLD.name <> NEW.name OR OLD.labels <> NEW.labels)"
    for table, kind in KINDS.items():
        for name, event, function in (
            ("note_search_terms", "INSERT", f"note_search_terms('{kind}')"),
            ("renew_search_terms", "UPDATE OF name, labels", f"renew_search_terms('{kind}')"),
            ("forget_search_terms", "DELETE", "forget_search_terms()"),
        ):
            condition = f"WHEN {changed}" if name.startswith("renew") else ""
            op.execute(
                f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {condition} EXECUTE FUNCTION {function}"
            )


def downgrade() -> None:
    """Revert the change."""
    for table in KINDS:
        for trigger in ("note_search_terms", "renew_search_terms", "forget_search_terms"):
            op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for head in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {head.partition('(')[0]}")
    op.drop_table("search_terms")
