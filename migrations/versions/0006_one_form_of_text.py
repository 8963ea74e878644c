"""Compare usernames and e-mail addresses by rules of our own. Earlier code keeps working: the new columns may be empty.

The new indexes compare the accounts that it adds, too. Of letters beyond ASCII, only the database's locale says which
of these accounts' letters are equal.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

from domain.rules.text import email_key

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# An account that equals an older one by the new rules gets a key of its own, so that both keep working.
SAME = "="
# Accounts whose names differ only by a letter that the locale's lower() keeps apart, as the Turkish one does I and i.
DUPLICATES = """
SELECT id FROM (
    SELECT id, row_number() OVER (PARTITION BY lower({column} COLLATE "C") ORDER BY created_at, id) AS position
    FROM users
) AS numbered WHERE position > 1
"""
KEEP_APART = "UPDATE users SET {column}_key = '=' || {column} WHERE id = ANY(:ids)"


def upgrade() -> None:
    """Apply the change."""
    # Let no account come in between, but let all other requests go on as long as possible.
    op.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
    connection = op.get_bind()
    duplicates = {
        column: list(connection.scalars(sa.text(DUPLICATES.format(column=column)))) for column in ("username", "email")
    }
    keys = _email_keys(connection)
    for column in ("username_key", "email_key"):
        op.add_column("users", sa.Column(column, sa.Text(), nullable=True))
    for column, ids in duplicates.items():
        if ids:
            connection.execute(sa.text(KEEP_APART.format(column=column)), {"ids": ids})
    if keys:
        connection.execute(sa.text("UPDATE users SET email_key = :key WHERE id = :id"), keys)
    for column in ("username", "email"):
        key = sa.text(f"""coalesce({column}_key, lower({column} COLLATE "C"))""")
        op.create_index(f"uq_users_{column}_key", "users", [key], unique=True)


def _email_keys(connection: sa.Connection) -> list[dict[str, object]]:
    """The keys of the accounts whose addresses have letters beyond ASCII."""
    others = sa.text(
        "SELECT id, email FROM users WHERE octet_length(email) > char_length(email) ORDER BY created_at, id"
    )
    accounts = [(id, email, email_key(email)) for id, email in connection.execute(others)]
    # Accounts with other letters are compared with each other below: one of them may be its own key.
    in_ascii = sa.text(
        """SELECT lower(email COLLATE "C") FROM users WHERE lower(email COLLATE "C") = ANY(:keys)
        AND octet_length(email) = char_length(email)"""
    )
    taken = set(connection.scalars(in_ascii, {"keys": [key for _, _, key in accounts]}))
    keys: list[dict[str, object]] = []
    for id, email, key in accounts:
        keys.append({"id": id, "key": SAME + email if key in taken else key})
        taken.add(key)
    return keys


def downgrade() -> None:
    """Revert the change."""
    for column in ("username", "email"):
        op.drop_index(f"uq_users_{column}_key", "users")
        op.drop_column("users", f"{column}_key")
