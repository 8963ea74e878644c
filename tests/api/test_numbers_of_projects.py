"""How many projects a user can make, and join."""

import asyncio
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import projects as commands
from domain.commands.acceptance import Requester
from domain.rules.access import ProjectRole
from domain.rules.errors import QuotaExceededError
from domain.settings import Settings
from tests.api.conftest import Person, person
from tests.api.projects import project_of


@pytest.fixture
async def eve(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """A user who is a member of nothing."""
    return await person(app, engine, settings, "eve")


async def test_one_user_makes_a_bounded_number_of_projects(
    ada: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MOST_CREATED", 2)
    for name in ("a", "b"):
        await project_of(bob, name, owner=ada)  # those of others do not count
    answers = await asyncio.gather(*(ada.http.post("/projects", json={"name": f"p{n}"}) for n in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 403, 403, 403, 403]


async def test_a_user_joins_a_bounded_number_of_projects(
    ada: Person, bob: Person, eve: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two owners of different projects add the user at the same moment."""
    monkeypatch.setattr(commands, "MOST_JOINED", 2)  # with the personal one
    of_ada, of_bob = await project_of(ada), await project_of(bob)

    async def add(tx: AsyncConnection, owner: Person, project: UUID) -> None:
        requester = Requester(owner.user.id, owner.user.username, "request")
        await commands.set_member(tx, requester, project, eve.user.username, ProjectRole.READER)

    async with engine.begin() as first, engine.begin() as second:
        await add(first, ada, of_ada)
        waiting = asyncio.create_task(add(second, bob, of_bob))
        await asyncio.sleep(0.2)
        await first.commit()
        with pytest.raises(QuotaExceededError):
            await waiting
