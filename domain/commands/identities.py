"""Finds the users whom an identity provider names, and makes an account for each at first sight."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import Row, Select, Text, bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_or_not
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands import audit
from domain.commands.audit import Stranger
from domain.data import advisory_locks
from domain.data.accounts import User
from domain.data.identities import Identity
from domain.rules.accounts import Event, Role
from domain.rules.usernames import usernames

_LOCK: Final = select(func.pg_advisory_xact_lock(advisory_locks.number_of(bindparam("name", type_=Text()))))


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a token is about: `id` among the users of the provider `issuer`, and what it calls them."""

    issuer: str
    id: str
    name: str


async def find(connection: AsyncConnection, subject: Subject) -> Row[UUID, str, datetime | None] | None:
    """The id and the username of the subject's account, and since when it is disabled; None if there is none yet."""
    return (await connection.execute(_account(subject))).one_or_none()


async def find_or_add(tx: AsyncConnection, subject: Subject, actor: Stranger) -> Row[UUID, str, datetime | None]:
    """The id and the username of the subject's account, and since when it is disabled, which is new if need be.

    A new one never gets the name of another account, so that a name at the provider opens no account here. It has no
    password, so nobody can log in to it, and no e-mail address, so it takes none from others. The audit says from where
    the `actor` came for it.
    """
    # Other requests of the same user may come at the same time, also to other processes.
    await tx.execute(_LOCK, {"name": f"identity {subject.issuer} {subject.id}"})
    found = await find(tx, subject)
    if found is None:
        user_id = await _add_user(tx, subject)
        await tx.execute(insert(Identity).values(issuer=subject.issuer, subject=subject.id, user_id=user_id))
        found = (await tx.execute(_account(subject))).one()
        issuer, id = subject.issuer, subject.id
        await audit.record(tx, Event.REGISTER, actor, target=found.username, role=Role.USER, issuer=issuer, subject=id)
    return found


def _account(subject: Subject) -> Select[UUID, str, datetime | None]:
    same = (Identity.issuer == subject.issuer, Identity.subject == subject.id)
    return select(User.id, User.username, User.disabled_at).join(Identity, Identity.user_id == User.id).where(*same)


async def _add_user(tx: AsyncConnection, subject: Subject) -> UUID:
    mark = hashlib.sha256(f"{subject.issuer}\0{subject.id}".encode()).hexdigest()[:32]
    # Nobody can have taken the last one on purpose.
    for username in (*usernames(subject.name, mark), f"user-{uuid4().hex}"):
        row = {"id": uuid4(), "username": username, "email": None, "password_hash": None}
        # Not after a look: another user may take the name in between.
        added: UUID | None = await tx.scalar(
            insert_or_not(User).values(row).on_conflict_do_nothing().returning(User.id)
        )
        if added is not None:
            return added
    raise AssertionError("A random username is taken.")
