"""Searches for labels and parts of names: in all projects that a user may read, and for what many have."""

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import search
from domain.data.projects import Project
from tests.api.conftest import Person
from tests.api.projects import project_of
from tests.api.vm_resources import vm_of


async def names(person: Person, query: str) -> list[str]:
    """The names of the VMs that the query finds."""
    answer = await person.http.get(f"/vms?sort=name&{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["total"] == len(answer.json()["items"])
    return [vm["name"] for vm in answer.json()["items"]]


async def forget_projects(engine: AsyncEngine) -> None:
    """As if each project had been made by somebody else: one user may make a few only."""
    async with engine.begin() as tx:
        await tx.execute(update(Project).values(created_by=None))


async def test_a_search_finds_what_is_in_each_project_that_the_user_may_read(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    project = await project_of(ada, reader=bob)
    for person, name in ((ada, "of-ada"), (bob, "of-bob")):
        await vm_of(person, engine, name=name, labels={"env": "prod"})
    await vm_of(ada, engine, name="of-both", labels={"env": "prod"}, owner_id=project)
    for _ in range(3):  # its statement is another one from the second time on
        for query in ("name=OF-", "labels=env=prod", "labels=env", "name=of&labels=env in (prod,test)"):
            assert await names(ada, query) == ["of-ada", "of-both"]
            assert await names(bob, query) == ["of-bob", "of-both"]
        assert await names(bob, f"name=of&project_id={project}") == ["of-both"]
        assert await names(bob, f"name=of&project_id={bob.user.id}") == ["of-bob"]
        assert await names(bob, "name=ada") == []


async def test_what_more_have_than_are_looked_up_is_found_in_the_order_of_the_list(
    app: FastAPI, ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_CANDIDATES", 2)
    wanted = ["web-1", "web-2", "web-3"]
    for name in (*wanted, "db-1"):
        await vm_of(ada, engine, name=name)
    for _ in range(3):
        assert await names(ada, "name=web") == wanted
        assert await names(ada, "name=db") == ["db-1"]
    assert len(app.state.vmapi.common_searches._until) == 1


async def test_however_many_projects_others_add_a_user_to_a_search_looks_in_the_index(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    for number in range(40):
        project = await project_of(bob, reader=ada, name=f"project-{number}")
        await vm_of(bob, engine, name=f"web-{number:02}", owner_id=project)
        await forget_projects(engine)
    for _ in range(2):
        assert await names(ada, "name=web&page_size=50") == [f"web-{number:02}" for number in range(40)]
    assert not app.state.vmapi.common_searches._until
    assert await names(ada, f"name=web&project_id={project}") == ["web-39"]


async def test_a_selector_with_hundreds_of_values_is_a_search_like_others(ada: Person, engine: AsyncEngine) -> None:
    await vm_of(ada, engine, name="web-1", labels={"k": "7"})
    assert await names(ada, f"labels=k in ({','.join(map(str, range(700)))})") == ["web-1"]
