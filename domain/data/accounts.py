"""The tables of accounts and of what their clients have: logins, tokens, and answers under idempotency keys."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Select, Text, func, literal_column, select, text
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import XID8, Base, sql_list
from domain.rules.accounts import Role
from domain.rules.text import email_key


def _email_key(context: DefaultExecutionContext) -> str | None:
    """The default of `email_key`, so that no statement that inserts a user can forget it."""
    email: str | None = context.get_current_parameters()["email"]  # type: ignore[no-untyped-call]
    return None if email is None or email.isascii() else email_key(email)


class User(Base):
    """An account that may call the API.

    Usernames and e-mail addresses are compared in lower case, by the rules of ASCII and not of the database's locale.
    `email_key` is compared instead of an address that has other letters. Two accounts that are older than these
    rules, and equal by them, are kept apart: the key of the later one is SAME and its own name. A user whom an
    identity provider names has neither an e-mail address nor a password.

    A login's tokens carry the `epoch` that the account had then. With the next epoch, since `epoch_at`, they are void.
    A trigger writes to `changed` which transaction has begun it (migration 0021).
    """

    __tablename__ = "users"
    __table_args__ = (
        Index("uq_users_username", text("lower(username)"), unique=True),
        Index("uq_users_email", text("lower(email)"), unique=True),
        Index("uq_users_username_key", text("""coalesce(username_key, lower(username COLLATE "C"))"""), unique=True),
        Index("uq_users_email_key", text("""coalesce(email_key, lower(email COLLATE "C"))"""), unique=True),
        CheckConstraint(f"role IN {sql_list(Role)}", name="role"),
        Index("ix_users_created", "created_at", "id"),
        Index("ix_users_admins", "created_at", "id", postgresql_where=text("role = 'admin'")),
        Index("ix_users_disabled", "created_at", "id", postgresql_where=text("disabled_at IS NOT NULL")),
        Index("ix_users_epoch_at", "epoch_at", postgresql_where=text("epoch_at IS NOT NULL")),
        Index("ix_users_changed", "changed", postgresql_where=text("changed IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    username: Mapped[str]
    email: Mapped[str | None]
    password_hash: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    username_key: Mapped[str | None]
    email_key: Mapped[str | None] = mapped_column(default=_email_key)
    role: Mapped[str] = mapped_column(server_default=Role.USER)
    disabled_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(server_default="0")
    epoch_at: Mapped[datetime | None]
    changed: Mapped[int | None] = mapped_column(XID8)


# Literals, because they are conditions of an index: the planner cannot prove those from a parameter.
HAS_ROLE = {role: User.role == literal_column(f"'{role}'") for role in Role}
LONGEST_USERNAME = 64  # characters, all of them ASCII
SAME = "="  # no username or address begins with it


def username_key(username: str) -> str:
    """What a username is compared by; empty for a text that no account can have as its name."""
    return username.lower() if username.isascii() and len(username) <= LONGEST_USERNAME else ""


def user_named(username: str) -> Select[User]:
    """Select the account with this username, ignoring case."""
    key = func.coalesce(User.username_key, func.lower(User.username.collate("C")))
    is_same = User.username == username
    return select(User).where(key.in_([username_key(username), SAME + username])).order_by(is_same.desc()).limit(1)


class RefreshToken(Base):
    """A refresh token that was issued; `family_id` identifies the login it descends from.

    `generation` counts the exchanges since the login. Tokens have the same generation if they were given for the same
    token, because the first answer may be lost. The first use of one of them is recorded in all of them, with the
    origin of the client in `used_from`. No token of the login lasts longer than until `login_ends_at`. An earlier
    version leaves these three empty.
    """

    __tablename__ = "refresh_tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    family_id: Mapped[UUID] = mapped_column(index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    generation: Mapped[int | None]
    used_from: Mapped[str | None]
    login_ends_at: Mapped[datetime | None]


class ProgramToken(Base):
    """A token that a user has made for a program; `digest` is the SHA-256 of its text, which is kept nowhere.

    It has ended when `expires_at` is over. A deleted one has no row.
    """

    __tablename__ = "program_tokens"
    __table_args__ = (
        Index("uq_program_tokens_digest", "digest", unique=True),
        Index("uq_program_tokens_name", "owner_id", "name", unique=True),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    digest: Mapped[bytes]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    last_used_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The stored response to a request with an Idempotency-Key; `scope` is user, method and path."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    status_code: Mapped[int]
    headers: Mapped[dict[str, str]]
    body: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


def owner_references() -> frozenset[str]:
    """The names of the foreign keys to the accounts and to their projects, of all tables."""
    tables = Base.metadata.tables.values()
    keys = {
        key
        for table in tables
        for key in table.foreign_key_constraints
        if key.referred_table.name in {"users", "projects"}
    }
    return frozenset(str(key.name) for key in keys)
