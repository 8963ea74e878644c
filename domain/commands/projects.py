"""Projects: make one, change its members, delete one."""

from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Requester
from domain.data.accounts import User, user_named
from domain.data.projects import Project, ProjectMember, Rows
from domain.data.queries import fetch_one, insert_row
from domain.data.quotas import ProjectUsage
from domain.rules import access
from domain.rules.access import LastOwnerError, ProjectInUseError, ProjectRole, Verb
from domain.rules.errors import NotFoundError, QuotaExceededError
from domain.rules.quotas import Quota

MOST_CREATED: Final = 20  # projects that one user has made and nobody has deleted
MOST_MEMBERS: Final = 1_000  # of one project
MOST_JOINED: Final = 1_000  # projects of which one user can be a member: each costs every list a look

_IN_USE: Final = {
    Quota.VMS: "VMs. Delete them first",
    Quota.VOLUMES: "volumes. Delete them first",
    Quota.SNAPSHOTS: "snapshots. Delete them first",
    Quota.OPEN_OPERATIONS: "operations that have not ended. Wait for them",
}

PROJECTS: Final[Rows] = select(
    Project.id, Project.name, Project.personal_of.is_not(None).label("personal"), ProjectMember.role, Project.created_at
).join(ProjectMember, ProjectMember.project_id == Project.id)
"""Projects, each with a member's role; of a user: `ProjectMember.user_id` is the user's."""

MEMBERS: Final[Rows] = select(
    User.username, ProjectMember.role, ProjectMember.accepted, ProjectMember.created_at, User.id
).join(ProjectMember, ProjectMember.user_id == User.id)
"""Members, by name; of a project: `ProjectMember.project_id` is the project's."""


async def create_project(tx: AsyncConnection, requester: Requester, name: str) -> UUID:
    """Make a project that the requester owns, and return its id; QuotaExceededError."""
    # The lock makes two requests of one user count one after the other. It holds up nothing else.
    await _lock_user(tx, requester.user_id)
    # Those that others have made do not count: anybody can make anybody an owner.
    created = select(func.count()).where(Project.created_by == requester.user_id, Project.deleted_at.is_(None))
    number = await tx.scalar(created) or 0
    if number >= MOST_CREATED:
        raise QuotaExceededError("projects that you have made", MOST_CREATED, number)
    project = await insert_row(tx, Project, name=name, created_by=requester.user_id)
    await insert_row(tx, ProjectMember, project_id=project.id, user_id=requester.user_id, role=ProjectRole.OWNER)
    return project.id


async def set_member(
    tx: AsyncConnection, requester: Requester, project_id: UUID, username: str, role: ProjectRole
) -> str | None:
    """Make a user a member of a project, or change the member's role; returns the name as the account has it.

    None if that changes nothing.

    Users who set a role of their own accept it. Only an owner who has done so can be the last one: otherwise anybody
    could leave a project to somebody who has not been asked and cannot leave it.

    NotFoundError if the requester cannot see the project or there is no such user, ForbiddenError if the requester is
    no owner, LastOwnerError if no owner would be left, QuotaExceededError.
    """
    project = await _lock(tx, requester, project_id)
    user = await _user(tx, username)
    is_own = user.id == requester.user_id
    present, was_accepted = await _membership(tx, project_id, user.id)
    if present is role and (was_accepted or not is_own):
        return None
    if present is ProjectRole.OWNER and role is not ProjectRole.OWNER:
        await _check_another_owner(tx, project, user.id)
    if present is None:
        await _check_room(tx, "members", MOST_MEMBERS, ProjectMember.project_id == project_id)
        # Owners of other projects may add the same user now. The lock makes them count one after the other. Nobody who
        # holds it waits for a project, so the order is the project, then the user.
        await _lock_user(tx, user.id)
        await _check_room(tx, "projects of the user", MOST_JOINED, ProjectMember.user_id == user.id)
    key = {"project_id": project_id, "user_id": user.id}
    values = {"role": role, "accepted": is_own}
    added = upsert(ProjectMember).values(key | values)
    await tx.execute(added.on_conflict_do_update(index_elements=[*key], set_=values))
    return user.username


async def remove_member(tx: AsyncConnection, requester: Requester, project_id: UUID, username: str) -> str | None:
    """End a user's membership; every member can end their own. Returns the name as the account has it.

    None if the user is no member. Errors as for `set_member`.
    """
    project = await _lock(tx, requester, project_id, Verb.READ)
    user = await _user(tx, username)
    # Compared by id: the names of two early accounts may differ in case only.
    if user.id != requester.user_id:
        access.check(await _role(tx, project_id, requester.user_id), Verb.MANAGE, "project", project_id)
    if await _role(tx, project_id, user.id) is ProjectRole.OWNER:
        await _check_another_owner(tx, project, user.id)
    is_it = (ProjectMember.project_id == project_id, ProjectMember.user_id == user.id)
    is_gone = (await tx.execute(delete(ProjectMember).where(*is_it))).rowcount > 0
    return user.username if is_gone else None


async def delete_project(tx: AsyncConnection, requester: Requester, project_id: UUID) -> None:
    """Delete a project that has nothing any more; ProjectInUseError if it has, or if it is a personal one.

    It has no members from now on, so nobody can see it. Its row stays until housekeeping has deleted the history.
    """
    project = await _lock(tx, requester, project_id)
    if project.personal_of is not None:
        raise ProjectInUseError("It is the personal project of a user.")
    # The triggers that count lock this row, too. Of two at the same time, either this one sees what the other has made,
    # or the other finds no row and is refused.
    usage = await fetch_one(tx, select(ProjectUsage).where(ProjectUsage.project_id == project_id).with_for_update())
    for quota, word in _IN_USE.items():
        if getattr(usage, quota):
            raise ProjectInUseError(f"It has {word}.")
    await tx.execute(delete(ProjectUsage).where(ProjectUsage.project_id == project_id))
    await tx.execute(delete(ProjectMember).where(ProjectMember.project_id == project_id))
    await tx.execute(update(Project).where(Project.id == project_id).values(deleted_at=func.now()))


async def _lock(tx: AsyncConnection, requester: Requester, project_id: UUID, verb: Verb = Verb.MANAGE) -> Project:
    """Lock a project, so that two changes of its members run one after the other; NotFoundError, ForbiddenError."""
    project = await fetch_one(tx, select(Project).where(Project.id == project_id).with_for_update(key_share=True))
    if project is None:
        raise NotFoundError("project", project_id)
    access.check(await _role(tx, project_id, requester.user_id), verb, "project", project_id)
    return project


async def _lock_user(tx: AsyncConnection, user_id: UUID) -> None:
    await tx.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))


async def _user(tx: AsyncConnection, username: str) -> User:
    user = await fetch_one(tx, user_named(username))
    if user is None:
        raise NotFoundError("user", username)
    return user


async def _role(tx: AsyncConnection, project_id: UUID, user_id: UUID) -> ProjectRole | None:
    return (await _membership(tx, project_id, user_id))[0]


async def _membership(tx: AsyncConnection, project_id: UUID, user_id: UUID) -> tuple[ProjectRole | None, bool]:
    """The role of a user, None without one, and whether the user has accepted it."""
    is_it = (ProjectMember.project_id == project_id, ProjectMember.user_id == user_id)
    found = (await tx.execute(select(ProjectMember.role, ProjectMember.accepted).where(*is_it))).one_or_none()
    return (found.role, found.accepted) if found else (None, False)


async def _check_another_owner(tx: AsyncConnection, project: Project, user_id: UUID) -> None:
    if project.personal_of == user_id:
        raise LastOwnerError("It is the user's personal project, which the user always owns.")
    others = (ProjectMember.user_id != user_id, ProjectMember.role == ProjectRole.OWNER, ProjectMember.accepted)
    if not await tx.scalar(
        select(ProjectMember.user_id).where(ProjectMember.project_id == project.id, *others).limit(1)
    ):
        raise LastOwnerError(
            "The project needs an owner who has accepted that. Make another member an owner first, who then accepts it "
            "by setting the same role for themselves."
        )


async def _check_room(tx: AsyncConnection, what: str, limit: int, condition: ColumnElement[bool]) -> None:
    number = await tx.scalar(select(func.count()).select_from(ProjectMember).where(condition)) or 0
    if number >= limit:
        raise QuotaExceededError(what, limit, number)
