"""Streams of users whom others make members of projects, and take out of them again."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import changes, listeners
from api.web import security
from tests.api.conftest import Person
from tests.api.dispatching import until
from tests.api.event_client import Client, following
from tests.api.projects import project_of, set_member
from tests.api.vm_resources import vm_of


@pytest.fixture(autouse=True)
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the members each time."""
    monkeypatch.setattr(changes, "MEMBERS_INTERVAL", 0.0)


async def join_and_leave(app: FastAPI, ada: Person, bob: Person) -> None:
    """Make Bob a member of a project of Ada's and take him out again; his streams notice both."""
    project = await project_of(ada)
    streams = app.state.vmapi.changes._streams
    await set_member(ada, project, bob, "reader")
    await until(lambda: all(project in stream.projects for stream in streams))
    assert (await ada.http.delete(f"/projects/{project}/members/bob")).status_code == 204
    await until(lambda: all(project not in stream.projects for stream in streams))


async def kinds_until(client: Client, last: str) -> AsyncIterator[str]:
    """The kinds of the events up to the first of this kind."""
    kind = ""
    while kind != last:
        kind = (await client.next()).kind
        yield kind


async def test_an_id_of_an_earlier_version_is_good_for_the_position_that_it_has(
    app: FastAPI, bob: Person, engine: AsyncEngine
) -> None:
    async with following(app, bob) as client:
        await client.next("comment")
    assert client.last_id
    *earlier, _ = security.unseal(app.state.vmapi.signing, client.last_id)
    vm = await vm_of(bob, engine)
    async with following(app, bob, security.seal(app.state.vmapi.signing, earlier)) as client:
        assert (await client.next()).data["id"] == str(vm.id)


async def test_whoever_adds_and_removes_somebody_again_and_again_makes_few_resets(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    async with following(app, bob) as client:
        await client.next("comment")
        for _ in range(3):
            await join_and_leave(app, ada, bob)
        await vm_of(bob, engine)
        kinds = [kind async for kind in kinds_until(client, "vm")]
        assert kinds.count("reset") == 1


async def test_a_reset_that_is_owed_comes_later(
    app: FastAPI, ada: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "RESET_PAUSE", 2.0)
    async with following(app, bob) as client:
        await client.next("comment")
        await join_and_leave(app, ada, bob)
        for _ in range(2):
            await client.next("reset")


async def test_a_client_that_comes_back_before_an_owed_reset_gets_it_at_once(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    async with following(app, bob) as client:
        await client.next("comment")
        await join_and_leave(app, ada, bob)
        await vm_of(bob, engine)
        await client.next("vm")
    async with following(app, bob, client.last_id) as client:
        assert (await client.next()).kind == "reset"


@pytest.mark.parametrize("has_joined", [True, False])
async def test_a_client_that_was_away_when_its_user_joined_a_project_has_to_read_afresh(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine, *, has_joined: bool
) -> None:
    project = await project_of(ada)
    await ada.create(project_id=str(project))
    async with following(app, bob) as client:
        await client.next("comment")
        await vm_of(bob, engine)
        await client.next("vm")
    if has_joined:
        await set_member(ada, project, bob, "reader")
    else:
        await vm_of(bob, engine)
    async with following(app, bob, client.last_id) as client:
        assert (await client.next()).kind == ("reset" if has_joined else "vm")


async def test_what_changed_before_a_reset_says_in_its_id_that_the_client_knows_the_earlier_projects(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    """A slow client gets both at once, and may lose its connection between them."""
    project = await project_of(ada)
    async with following(app, bob) as client:
        await client.next("comment")
        await vm_of(bob, engine)
        await until(lambda: has_news(app))
        await set_member(ada, project, bob, "reader")
        await until(lambda: all(project in stream.projects for stream in app.state.vmapi.changes._streams))
        await client.next("vm")
    async with following(app, bob, client.last_id) as client:
        assert (await client.next()).kind == "reset"


def has_news(app: FastAPI) -> bool:
    """Whether the streams have something to tell."""
    return all(stream._news for stream in app.state.vmapi.changes._streams)
