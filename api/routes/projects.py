"""Projects: groups of resources that several users share, each with a role."""

from typing import Annotated
from uuid import UUID

from fastapi import Path, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api import PREFIX
from api.routes import answers, requests, router
from api.web import openapi
from api.web.dependencies import CurrentRequester, CurrentUser, Process
from api.web.fields import Text
from api.web.idempotency import OnceOrTrial, OncePerKey
from api.web.lists import Order
from api.web.pages import WantedPage
from domain.commands import audit, projects
from domain.commands.acceptance import Requester
from domain.commands.projects import MEMBERS, PROJECTS
from domain.data.accounts import LONGEST_USERNAME, User, user_named
from domain.data.projects import Project, ProjectMember
from domain.rules import access
from domain.rules.access import Verb
from domain.rules.accounts import Event
from domain.rules.errors import NotFoundError

routes = router("/projects", "projects")

_BY_NAME = Order("name", (Project.name, Project.id))
_BY_USERNAME = Order("username", (User.username, User.id))
_ONE, _MEMBER = "/{project_id}", "/{project_id}/members/{username}"
Username = Annotated[Text, Path(max_length=LONGEST_USERNAME, description="The user's name.", examples=["grace"])]


@routes.post(
    "",
    status_code=201,
    response_model=answers.Project,
    responses=openapi.headers(201, "Location"),
    openapi_extra=openapi.problems("quota_exceeded"),
)
async def create_project(once: OnceOrTrial, body: requests.NewProject) -> Response:
    """Make a project. You own it, and you can add others to it."""

    async def create(tx: AsyncConnection, requester: Requester) -> Response:
        project_id = await projects.create_project(tx, requester, body.name)
        await audit.record(tx, Event.CREATE_PROJECT, requester, target=str(project_id), name=body.name)
        statement = PROJECTS.where(Project.id == project_id, ProjectMember.user_id == requester.user_id)
        created = answers.Project.model_validate((await tx.execute(statement)).one())
        location = {"Location": f"{PREFIX}/projects/{project_id}"}
        return Response(created.model_dump_json(), 201, location, "application/json")

    return await once(create, body)


@routes.get("")
async def list_projects(caller: CurrentUser, page: WantedPage) -> answers.ProjectPage:
    """The projects of which you are a member, by name. Your personal one has your own name, and the id of your user."""
    return await page.fetch(PROJECTS.where(ProjectMember.user_id == caller.id), _BY_NAME, answers.ProjectPage)


@routes.get(_ONE)
async def get_project(caller: CurrentUser, process: Process, project_id: UUID) -> answers.Project:
    """One project."""
    statement = PROJECTS.where(Project.id == project_id, ProjectMember.user_id == caller.id)
    async with process.autocommit.connect() as connection:
        found = (await connection.execute(statement)).one_or_none()
    access.check(found.role if found else None, Verb.READ, "project", project_id)
    return answers.Project.model_validate(found)


@routes.delete(
    _ONE, status_code=204, response_class=Response, openapi_extra=openapi.problems("forbidden", "project_in_use")
)
async def delete_project(once: OncePerKey, project_id: UUID) -> Response:
    """Delete a project that has no VMs, volumes and snapshots any more. Its owners can do that."""

    async def delete(tx: AsyncConnection, requester: Requester) -> Response:
        await projects.delete_project(tx, requester, project_id)
        await audit.record(tx, Event.DELETE_PROJECT, requester, target=str(project_id))
        return Response(status_code=204)

    return await once(delete)


@routes.get("/{project_id}/members")
async def list_members(caller: CurrentUser, process: Process, page: WantedPage, project_id: UUID) -> answers.MemberPage:
    """The members of a project, by name."""
    await get_project(caller, process, project_id)
    return await page.fetch(MEMBERS.where(ProjectMember.project_id == project_id), _BY_USERNAME, answers.MemberPage)


@routes.get(_MEMBER)
async def get_member(caller: CurrentUser, process: Process, project_id: UUID, username: Username) -> answers.Member:
    """One member of a project."""
    await get_project(caller, process, project_id)
    async with process.autocommit.connect() as connection:
        return await _member(connection, project_id, username)


@routes.put(_MEMBER, openapi_extra=openapi.problems("forbidden", "last_owner", "quota_exceeded"))
async def set_member(
    requester: CurrentRequester, process: Process, project_id: UUID, username: Username, body: requests.Membership
) -> answers.Member:
    """Make a user a member of a project, or change the member's role. The owners of the project can do that.

    An owner who sets the same role for themselves accepts it. A project keeps an owner who has accepted that, so nobody
    can be left alone with a project without being asked.
    """
    async with process.engine.begin() as tx:
        if name := await projects.set_member(tx, requester, project_id, username, body.role):
            project, role = str(project_id), body.role
            await audit.record(tx, Event.SET_MEMBER, requester, target=name, project=project, role=role)
        return await _member(tx, project_id, username)


@routes.delete(
    _MEMBER, status_code=204, response_class=Response, openapi_extra=openapi.problems("forbidden", "last_owner")
)
async def delete_member(once: OncePerKey, project_id: UUID, username: Username) -> Response:
    """End a membership. The owners of the project can do that, and every member can leave. It takes effect at once."""

    async def remove(tx: AsyncConnection, requester: Requester) -> Response:
        if name := await projects.remove_member(tx, requester, project_id, username):
            await audit.record(tx, Event.REMOVE_MEMBER, requester, target=name, project=str(project_id))
        return Response(status_code=204)

    return await once(remove)


async def _member(tx: AsyncConnection, project_id: UUID, username: str) -> answers.Member:
    user_id = user_named(username).with_only_columns(User.id).scalar_subquery()
    is_it = (ProjectMember.project_id == project_id, ProjectMember.user_id == user_id)
    found = (await tx.execute(MEMBERS.where(*is_it))).one_or_none()
    if found is None:
        raise NotFoundError("member", username)
    return answers.Member.model_validate(found)
