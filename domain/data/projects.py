"""The tables of projects and their members, and the SQL that says what a user may read.

Every resource belongs to a project: its `owner_id` is the project's id. Each user has a personal project, which has the
id of the user. So the column could keep its name and its values when projects came, while earlier code was running.
A trigger makes the personal project when the user is inserted (migration 0019).
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Select,
    Uuid,
    any_,
    bindparam,
    func,
    literal,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from domain.data.base import Base, sql_list
from domain.rules.access import ProjectRole

Rows = Select[*tuple[Any, ...]]


class Project(Base):
    """A group of resources that its members share; `personal_of` is the user whose own it is, who cannot leave it.

    Since `deleted_at` it has neither members nor resources. It stays as long as the history of its resources.
    """

    __tablename__ = "projects"
    __table_args__ = (
        CheckConstraint("personal_of IS NULL OR personal_of = id", name="personal"),
        Index("ix_projects_created_by", "created_by", postgresql_where=text("created_by IS NOT NULL")),
        Index("ix_projects_deleted", "deleted_at", "id", postgresql_where=text("deleted_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    personal_of: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))


class ProjectMember(Base):
    """A user's role in a project; `accepted` if the user has taken it, and not only been given it."""

    __tablename__ = "project_members"
    __table_args__ = (
        CheckConstraint(f"role IN {sql_list(ProjectRole)}", name="role"),
        Index("ix_project_members_user", "user_id", "project_id"),
    )

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[ProjectRole]
    accepted: Mapped[bool] = mapped_column(server_default=true())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


USER: Final = bindparam("user_id", type_=Uuid())
"""The id of the user who wants to read."""


def may_read(owner_id: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """Whether USER may read a row, by the column with its project. It is for statements that find few rows."""
    # Most resources belong to personal projects, so PostgreSQL seldom has to read the members.
    return or_(owner_id == USER, owner_id.in_(OF_USER))


def is_member(project_id: UUID) -> ColumnElement[bool]:
    """Whether USER is a member of the project."""
    return OF_USER.where(ProjectMember.project_id == project_id).exists()


def of_all_projects(rows: Rows, owner_id: InstrumentedAttribute[UUID]) -> Rows:
    """The rows of all projects that USER may read, in no order.

    `rows` is sorted and limited, and PostgreSQL runs it for each project: each time it reads a few rows from an index.
    For rows of several projects at once it would have to sort all of them.
    """
    projects = OF_USER.subquery("readable")
    found = rows.where(owner_id == projects.c.project_id).lateral("found")
    return select(found).select_from(projects.join(found, true()))


OF_USER: Final = select(ProjectMember.project_id).where(ProjectMember.user_id == USER)
"""The ids of all projects that USER may read."""
SHARES: Final = OF_USER.where(ProjectMember.project_id != USER).exists()
"""Whether USER is a member of another project than the personal one."""


async def roles_in(tx: AsyncConnection, user_id: UUID, project_ids: Collection[UUID]) -> Mapping[UUID, ProjectRole]:
    """The user's roles in those of the projects of which the user is a member."""
    is_one = ProjectMember.project_id == any_(literal(list(project_ids), ARRAY(Uuid)))
    rows = await tx.execute(
        select(ProjectMember.project_id, ProjectMember.role).where(ProjectMember.user_id == user_id, is_one)
    )
    return {row.project_id: row.role for row in rows}


OF_USERS: Final = select(ProjectMember.user_id, ProjectMember.project_id)


async def readable_by(tx: AsyncConnection, user_ids: Collection[UUID]) -> Mapping[UUID, frozenset[UUID]]:
    """The projects that each of the users may read."""
    is_one = ProjectMember.user_id == any_(literal(list(user_ids), ARRAY(Uuid)))
    found: dict[UUID, set[UUID]] = {user_id: set() for user_id in user_ids}
    for user_id, project_id in await tx.execute(OF_USERS.where(is_one)):
        found[user_id].add(project_id)
    return {user_id: frozenset(projects) for user_id, projects in found.items()}
