"""Deleting projects: what they may have, what comes at the same time, and what is left of them."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import housekeeping
from domain.commands import projects
from domain.data.models import VM, Volume
from domain.data.projects import Project
from domain.rules.states import Status
from tests.api.conftest import Person
from tests.api.projects import project_of
from tests.api.test_projects import refusal


async def test_a_project_is_deleted_once_it_is_empty(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    project = await project_of(ada, reader=bob)
    vm = await ada.create(project_id=str(project))
    assert refusal(await bob.http.delete(f"/projects/{project}")) == (403, "forbidden")
    assert refusal(await ada.http.delete(f"/projects/{project}")) == (409, "project_in_use")
    async with engine.begin() as tx:
        values = {"status": Status.DELETED, "task_state": None}
        await tx.execute(update(VM).where(VM.id == UUID(vm["id"])).values(values))
    answer = await ada.http.delete(f"/projects/{project}")
    assert "operations that have not ended" in answer.json()["detail"]
    assert (await ada.http.delete(f"/projects/{await project_of(ada, 'empty')}")).status_code == 204
    assert [each["name"] for each in (await ada.http.get("/projects")).json()["items"]] == ["ada", "web-shop"]


async def test_nothing_is_made_in_a_project_that_is_deleted_at_the_same_time(ada: Person, bob: Person) -> None:
    for turn in range(8):
        project = str(await project_of(ada, f"p{turn}", owner=bob))
        body = {"name": "data", "size_gb": 1, "project_id": project}
        made, gone = await asyncio.gather(ada.http.post("/volumes", json=body), bob.http.delete(f"/projects/{project}"))
        assert (made.status_code, gone.status_code) in {(202, 409), (404, 204)}, (made.text, gone.text)


async def test_the_database_refuses_what_comes_too_late_for_a_project(ada: Person, engine: AsyncEngine) -> None:
    project = await create_and_delete(ada)
    values = {"owner_id": project, "name": "late", "size_gb": 1, "status": "CREATING", "operation_id": uuid4()}
    async with engine.begin() as tx:
        await tx.execute(insert(Volume).values(values))
        with pytest.raises(IntegrityError, match="the project has been deleted"):
            await tx.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        await tx.rollback()


async def test_a_deleted_project_makes_room_for_another(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "MOST_CREATED", 1)
    for _ in range(2):
        await create_and_delete(ada)
    await project_of(ada)
    assert refusal(await ada.http.post("/projects", json={"name": "second"})) == (403, "quota_exceeded")


async def create_and_delete(owner: Person) -> UUID:
    """The id of a project that has been deleted."""
    project = await project_of(owner, "gone")
    assert (await owner.http.delete(f"/projects/{project}")).status_code == 204
    return project


async def test_a_deleted_project_goes_with_its_history(ada: Person, engine: AsyncEngine) -> None:
    await create_and_delete(ada)
    async with engine.begin() as tx:
        await tx.execute(update(Project).values(deleted_at=Project.deleted_at - timedelta(days=40)))
    await housekeeping.delete_expired(engine, 30)
    async with engine.connect() as connection:
        assert (await connection.scalars(select(Project.name))).all() == ["ada"]
