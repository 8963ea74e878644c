"""Lists of more than 10,000 items: totals and page numbers end there, and cursors go on."""

import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import lists, remembered
from domain.data.catalogue import FLAVORS, IMAGES
from tests.api.conftest import Person
from tests.api.test_pages import links

FILL = f"""
INSERT INTO vms (id, owner_id, name, status, flavor_id, image_id, labels, operation_id, created_at)
SELECT gen_random_uuid(), :owner, 'vm-' || n, :status, '{FLAVORS[0]["id"]}', '{IMAGES[0]["id"]}',
    jsonb_build_object('env', 'prod', 'n', n::text), gen_random_uuid(), now() - n * interval '1 second'
FROM generate_series(1, :count) AS n
"""  # noqa: S608 - constants
LONGER = lists.MAX_TOTAL + 1


async def fill(engine: AsyncEngine, person: Person, count: int, status: str = "ACTIVE") -> None:
    """Give the person so many VMs."""
    async with engine.begin() as tx:
        await tx.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers: that is faster
        await tx.execute(text(FILL), {"owner": person.user.id, "count": count, "status": status})


async def get(person: Person, **parameters: Any) -> httpx.Response:
    """A page of VMs."""
    return await person.http.get("/vms", params=parameters)


async def test_a_total_of_ten_thousand_is_exact_and_a_larger_one_is_not(ada: Person, engine: AsyncEngine) -> None:
    await fill(engine, ada, lists.MAX_TOTAL)
    exact = await get(ada, page_size=100)
    assert (exact.json()["total"], exact.json()["total_is_exact"], exact.json()["pages"]) == (10_000, True, 100)
    assert set(links(exact)) == {"first", "last", "next"}
    last = await ada.http.get(f"http://api{links(exact)['last']}")
    assert (last.json()["page"], len(last.json()["items"]), last.json()["next_cursor"]) == (100, 100, None)
    await fill(engine, ada, 1)
    capped = await get(ada, page_size=100)
    assert (capped.json()["total"], capped.json()["total_is_exact"], capped.json()["pages"]) == (10_000, False, 100)
    assert set(links(capped)) == {"first", "next"}, "the last page is not known"


async def test_a_page_number_beyond_ten_thousand_items_is_refused_and_a_cursor_leads_there(
    ada: Person, engine: AsyncEngine
) -> None:
    await fill(engine, ada, LONGER + 100)
    last = await get(ada, page=100, page_size=100)
    assert (last.status_code, len(last.json()["items"])) == (200, 100)
    for number in (101, 1_000_000):
        refused = await get(ada, page=number, page_size=100)
        assert (refused.status_code, refused.json()["code"]) == (422, "page_too_deep")
        assert refused.json()["errors"][0]["parameter"] == "page"
    deep = await ada.http.get(f"http://api{links(last)['next']}")
    assert (deep.status_code, deep.json()["page"], len(deep.json()["items"])) == (200, 101, 100)
    assert set(links(deep)) == {"first", "prev", "next"}
    back = await ada.http.get(f"http://api{links(deep)['prev']}")
    assert back.json()["items"] == last.json()["items"]
    end = await ada.http.get(f"http://api{links(deep)['next']}")
    assert (len(end.json()["items"]), end.json()["next_cursor"]) == (1, None)
    assert set(links(end)) == {"first"}, "page 101 has no number that leads there"


async def test_a_page_far_behind_a_short_list_is_empty(ada: Person, engine: AsyncEngine) -> None:
    await fill(engine, ada, 3)
    beyond = await get(ada, page=1_000_000, page_size=100)
    assert (beyond.status_code, beyond.json()["items"], beyond.json()["total"]) == (200, [], 3)
    assert beyond.json()["total_is_exact"] is True


async def test_a_long_list_is_not_counted_again_for_some_seconds(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MAX_TOTAL", 10)
    await fill(engine, ada, 25)
    await fill(engine, bob, 3)
    counts: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        counts.extend([statement] * (" AS total" in statement))

    event.listen(app.state.vmapi.engine.sync_engine, "before_cursor_execute", note)
    totals = [(await get(ada, page_size=5, page=number)).json()["total"] for number in (1, 2, 1)]
    assert (totals, len(counts)) == ([10, 10, 10], 1)
    assert (await get(ada, page=3, page_size=5)).status_code == 422
    other = [(await get(ada, status="SHUTOFF")).json(), (await get(bob)).json()]
    assert [(page["total"], page["total_is_exact"]) for page in other] == [(0, True), (3, True)]
    async with engine.begin() as tx:
        await tx.execute(text("DELETE FROM vms WHERE name LIKE 'vm-2_'"))
        await tx.execute(text("DELETE FROM vms WHERE name LIKE 'vm-1_'"))
    assert (await get(ada)).json()["total_is_exact"] is False
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + remembered.REMEMBERED_FOR)
    assert (await get(ada)).json()["total"] == 9


def test_only_so_many_long_lists_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 2)
    known = remembered.Remembered()
    for key in (1, 2, 1, 3):
        known.remember(key)
    assert [known.has(key) for key in (1, 2, 3)] == [True, False, True]


@pytest.mark.parametrize("page_size", [3, 7, 100])
async def test_the_last_countable_page_can_be_reached_by_its_number(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, page_size: int
) -> None:
    monkeypatch.setattr(lists, "MAX_TOTAL", 10)
    await fill(engine, ada, 25)
    first = (await get(ada, page_size=page_size)).json()
    assert (first["total"], first["total_is_exact"]) == (10, False)
    assert (await get(ada, page_size=page_size, page=first["pages"])).status_code == 200
    assert (await get(ada, page_size=page_size, page=first["pages"] + 1)).status_code == 422
