"""Lists that are asked for again: their statements are kept, and what they answer must not be."""

from itertools import chain

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import repeated
from api.web.repeated import RepeatedLists
from domain.rules.states import Action
from tests.api.conftest import Person
from tests.api.projects import project_of
from tests.api.vm_resources import snapshot_of, vm_of, volume_of
from tests.support.rows import add_operation

TIMES = 3  # the first in the usual way, the second prepares the statement, the third has it
OF_ALL = ("", "?page_size=1", "?page=2&page_size=1", "?sort=created_at&page_size=1")
OF_NAMED = (
    "?sort=name&page_size=2",
    "?sort=-updated_at&page_size=1",
    "?name=%C3%A4",
    "?labels=env%20in%20(prod,test),!x",
    "?labels=env!=prod",
)
QUERIES = {
    "/vms": (*OF_ALL, *OF_NAMED, "?status=ACTIVE,ERROR", "?changes_since=2020-01-01T00:00:00Z&page_size=1"),
    "/volumes": (*OF_ALL, *OF_NAMED, "?status=AVAILABLE"),
    "/snapshots": (*OF_ALL, *OF_NAMED, "?status=AVAILABLE"),
    "/operations": (*OF_ALL, "?status=RUNNING&page_size=1", "?action=stop"),
}


async def fill(person: Person, engine: AsyncEngine) -> None:
    """Give the user three of everything."""
    for name in ("ä", "b", "c"):
        labels = {"env": "prod"} if name == "ä" else {}
        vm = await vm_of(person, engine, name=name, labels=labels)
        await volume_of(person, engine, name=name, labels=labels)
        await snapshot_of(vm, engine, name=name, labels=labels)
        async with engine.begin() as tx:
            await add_operation(tx, vm, Action.STOP)


async def pages_of(person: Person, path: str, query: str) -> list[list[str]]:
    """The ids on each page of the list, from the first that the query asks for."""
    pages, url = [], path + query
    while True:
        answer = await person.http.get(url)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append([item["id"] for item in page["items"]])
        if page["next_cursor"] is None:
            return pages
        url = f"{path}{query}{'&' if query else '?'}cursor={page['next_cursor']}"


@pytest.mark.parametrize("path", QUERIES)
async def test_a_list_is_the_same_each_time_and_each_users_own(
    ada: Person, bob: Person, engine: AsyncEngine, path: str
) -> None:
    for person in (ada, bob):
        await fill(person, engine)
    for query in QUERIES[path]:
        first = [await pages_of(person, path, query) for person in (ada, bob)]
        of_ada, of_bob = (set(chain.from_iterable(pages)) for pages in first)
        assert of_ada, query
        assert len(of_ada) == len(of_bob)
        assert not of_ada & of_bob
        for _ in range(1, TIMES):
            assert [await pages_of(person, path, query) for person in (ada, bob)] == first, query


@pytest.mark.parametrize("path", QUERIES)
async def test_what_comes_and_what_is_shared_later_is_in_a_list_that_was_asked_for_before(
    ada: Person, bob: Person, engine: AsyncEngine, path: str
) -> None:
    for _ in range(TIMES):
        assert await pages_of(bob, path, "") == [[]]
    await fill(bob, engine)
    for _ in range(TIMES):
        (mine,) = await pages_of(bob, path, "")
    project = await project_of(ada, reader=bob)
    await ada.create(project_id=str(project))
    (all_of_them,) = await pages_of(bob, path, "")
    assert set(mine) <= set(all_of_them)
    assert len(all_of_them) == len(mine) + (path in {"/vms", "/operations"})


@pytest.mark.parametrize("path", QUERIES)
async def test_a_personal_project_by_its_id_is_nobody_elses(
    ada: Person, bob: Person, engine: AsyncEngine, path: str
) -> None:
    await fill(ada, engine)
    for _ in range(TIMES):
        (mine,) = await pages_of(ada, path, f"?project_id={ada.user.id}")
        assert len(mine) == 3
        refused = await bob.http.get(path, params={"project_id": str(ada.user.id)})
        assert refused.status_code == 404


def test_a_statement_is_prepared_at_its_second_use_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "MOST", 2)
    lists, made = RepeatedLists(), []

    def find(key: str) -> bool:
        return lists.find(key, lambda: made.append(key) or select()) is not None  # type: ignore[func-returns-value]

    assert [find(key) for key in "aaba"] == [False, True, False, True]
    assert made == ["a"]
    assert not find("c")  # takes the place of b, which was used longest ago
    assert [find("a"), find("b")] == [True, False]
