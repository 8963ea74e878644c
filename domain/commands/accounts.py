"""Commands on accounts: make one, change its password or role, disable and enable it, end all its logins.

A new epoch ends them: the tokens of all logins carry the epoch that the account had then. Tokens for programs have
none. They live on after a change of the password, and stop while the account is disabled.
"""

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands import audit
from domain.commands.acceptance import Requester
from domain.commands.audit import Stranger
from domain.data.accounts import HAS_ROLE, User, user_named
from domain.data.identities import IS_OF_PROVIDER
from domain.data.queries import fetch_one, insert_row, violated_constraint
from domain.rules.account_errors import (
    EmailTakenError,
    LastAdminError,
    NotAnAdminError,
    RoleOfProviderError,
    UsernameTakenError,
)
from domain.rules.accounts import Event, Role
from domain.rules.errors import NotFoundError

_NEW_EPOCH: dict[str, Any] = {"epoch": User.epoch + 1, "epoch_at": func.now()}


@dataclass(frozen=True, slots=True)
class NewUser:
    """The account to make; the password is hashed already."""

    username: str
    email: str
    password_hash: str
    role: Role = Role.USER


async def create_user(tx: AsyncConnection, actor: Stranger, event: Event, new: NewUser) -> User:
    """Make an account; UsernameTakenError or EmailTakenError."""
    try:
        user = await insert_row(
            tx, User, username=new.username, email=new.email, password_hash=new.password_hash, role=new.role
        )
    except IntegrityError as error:
        by_name = violated_constraint(error) in {"uq_users_username", "uq_users_username_key"}
        raise UsernameTakenError if by_name else EmailTakenError from None
    await audit.record(tx, event, actor, target=user.username, role=user.role)
    return user


async def change_password(tx: AsyncConnection, requester: Requester, epoch: int, new_hash: str) -> int | None:
    """Change the password and begin a new epoch, which is returned; None if the requester's has ended meanwhile."""
    same = (User.id == requester.user_id, User.epoch == epoch)
    changed = update(User).where(*same).values(password_hash=new_hash, **_NEW_EPOCH).returning(User.epoch)
    new: int | None = await tx.scalar(changed)
    if new is not None:
        await audit.record(tx, Event.CHANGE_PASSWORD, requester, target=requester.username)
    return new


async def end_logins(tx: AsyncConnection, requester: Requester) -> int:
    """End all logins of the requester; returns the new epoch."""
    epoch = await _begin_epoch(tx, requester.user_id)
    await audit.record(tx, Event.LOGOUT_ALL, requester, target=requester.username)
    return epoch


async def set_disabled(
    tx: AsyncConnection, requester: Requester, username: str, *, disabled: bool, provider_decides: bool
) -> User:
    """Disable or enable an account; returns it. Nothing changes, and nothing is recorded, if it is so already.

    `provider_decides`: who of the identity provider's users is an admin.
    """
    user = await _lock_for_admin(tx, requester, username)
    if (user.disabled_at is not None) == disabled:
        return user
    if disabled:
        await _refuse_without_admins(tx, requester, user, provider_decides=provider_decides)
        values: dict[str, Any] = {"disabled_at": func.now(), **_NEW_EPOCH}
    else:
        values = {"disabled_at": None}
    changed = await _change(tx, user.id, values)
    event = Event.DISABLE_USER if disabled else Event.ENABLE_USER
    await audit.record(tx, event, requester, target=user.username)
    return changed


async def set_role(
    tx: AsyncConnection, requester: Requester, username: str, role: Role, *, provider_decides: bool
) -> User:
    """Give an account this role, and return the account. Nothing changes, and nothing is recorded, if it has it.

    RoleOfProviderError for an admin of the identity provider's users, if `provider_decides` who of them is one.
    """
    user = await _lock_for_admin(tx, requester, username)
    if user.role == role:
        return user
    if role != Role.ADMIN:
        await _refuse_without_admins(tx, requester, user, provider_decides=provider_decides)
    elif provider_decides:
        await _refuse_user_of_provider(tx, user)
    return await _record_role(tx, requester, user, role)


async def set_role_on_server(tx: AsyncConnection, username: str, role: Role, *, provider_decides: bool) -> User:
    """Give an account this role by a command on the server, which may also take it from the last admin.

    RoleOfProviderError as in `set_role`.
    """
    user = await fetch_one(tx, user_named(username).with_for_update(key_share=True))
    if user is None:
        raise NotFoundError("user", username)
    if user.role == role:
        return user
    if role == Role.ADMIN and provider_decides:
        await _refuse_user_of_provider(tx, user)
    return await _record_role(tx, Stranger(username=audit.SERVER), user, role)


async def _refuse_user_of_provider(tx: AsyncConnection, user: User) -> None:
    if await tx.scalar(select(User.id).where(User.id == user.id, IS_OF_PROVIDER)):
        raise RoleOfProviderError


async def _record_role(tx: AsyncConnection, actor: Requester | Stranger, user: User, role: Role) -> User:
    changed = await _change(tx, user.id, {"role": role})
    await audit.record(tx, Event.CHANGE_ROLE, actor, target=user.username, role=role, was=user.role)
    return changed


async def _lock_for_admin(tx: AsyncConnection, requester: Requester, username: str) -> User:
    """Lock the account and all admins, and return the account; NotAnAdminError if the requester is none any more.

    So two admins who demote each other do it one after the other, and the second is refused.
    """
    user = await fetch_one(tx, user_named(username))
    if user is None:
        raise NotFoundError("user", username)
    involved = or_(HAS_ROLE[Role.ADMIN], User.id == user.id, User.id == requester.user_id)
    # In the order of their ids, so that no two transactions wait for each other.
    locking = select(User).where(involved).order_by(User.id).with_for_update(key_share=True)
    locked = {row.id: row for row in (await tx.execute(locking)).all()}
    admin = locked.get(requester.user_id)
    if admin is None or admin.disabled_at is not None:
        raise NotAnAdminError
    if admin.role != Role.ADMIN and not requester.is_admin_by_provider:
        raise NotAnAdminError
    return cast("User", locked[user.id])


async def _refuse_without_admins(
    tx: AsyncConnection, requester: Requester, leaving: User, *, provider_decides: bool
) -> None:
    """LastAdminError if nobody could use /admin without this account."""
    if requester.is_admin_by_provider and leaving.id != requester.user_id:
        return  # the requester can
    others = [HAS_ROLE[Role.ADMIN], User.disabled_at.is_(None), User.id != leaving.id]
    if provider_decides:
        others.append(~IS_OF_PROVIDER)  # the role that their accounts have here has no effect
    is_admin = leaving.role == Role.ADMIN and leaving.disabled_at is None
    if is_admin and await tx.scalar(select(User.id).where(*others).limit(1)) is None:
        raise LastAdminError


async def _begin_epoch(tx: AsyncConnection, user_id: UUID) -> int:
    changed = update(User).where(User.id == user_id).values(_NEW_EPOCH).returning(User.epoch)
    epoch: int | None = await tx.scalar(changed)
    if epoch is None:
        raise NotFoundError("user", user_id)
    return epoch


async def _change(tx: AsyncConnection, user_id: UUID, values: dict[str, Any]) -> User:
    return cast("User", (await tx.execute(update(User).where(User.id == user_id).values(values).returning(User))).one())
