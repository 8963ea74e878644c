"""Lists that change while a client pages: `changes_since` misses nothing, and sorted lists tell what cursors cannot."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import pages, security
from domain.data.models import VM, Attachment
from domain.rules.states import Status
from domain.settings import Settings
from tests.api.conftest import Person, pointers, signing_of
from tests.api.test_pages import links
from tests.api.vm_resources import attached_to, vm_of
from tests.support.rows import add_vm, add_volume, note_vms_changed

LONG_AGO = datetime.now(UTC) - timedelta(days=2)


async def fleet_of(ada: Person, engine: AsyncEngine, count: int = 5) -> list[VM]:
    """VMs that have not changed for long, `vm-0` the longest."""
    async with engine.begin() as tx:
        return [
            await add_vm(tx, ada.user, name=f"vm-{n}", created_at=LONG_AGO, updated_at=LONG_AGO + timedelta(minutes=n))
            for n in range(count)
        ]


async def read(ada: Person, path: str = "/vms", **parameters: Any) -> dict[str, Any]:
    """A page."""
    answer = await ada.http.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def names_of(page: dict[str, Any]) -> list[str]:
    return [item["name"] for item in page["items"]]


async def change(engine: AsyncEngine, vm: VM, **values: Any) -> None:
    """Change a VM as an operation does, now."""
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == vm.id).values(**values))


async def test_changes_are_listed_from_the_oldest_on_with_deleted_vms(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    fleet = await fleet_of(ada, engine)
    await vm_of(bob, engine, name="foreign")
    await change(engine, fleet[0], status=Status.DELETED)
    since = fleet[3].updated_at
    assert names_of(await read(ada, changes_since=since.isoformat())) == ["vm-3", "vm-4", "vm-0"]
    just_after = since + timedelta(microseconds=1)
    assert names_of(await read(ada, changes_since=just_after.isoformat())) == ["vm-4", "vm-0"]
    assert names_of(await read(ada, changes_since=since.isoformat(), status="ACTIVE")) == ["vm-3", "vm-4"]
    assert names_of(await read(ada, changes_since=since.isoformat(), status="DELETED")) == ["vm-0"]
    assert names_of(await read(ada, changes_since=since.isoformat(), name="4")) == ["vm-4"]


async def test_a_vm_that_changes_while_one_pages_comes_again_and_none_is_missed(
    ada: Person, engine: AsyncEngine
) -> None:
    fleet = await fleet_of(ada, engine)
    start: dict[str, Any] = {"changes_since": LONG_AGO.isoformat(), "page_size": 2}
    first = await read(ada, **start)
    await change(engine, fleet[0], name="changed")
    await change(engine, fleet[3], status=Status.DELETED)
    second = await read(ada, **start, cursor=first["next_cursor"])
    third = await read(ada, **start, cursor=second["next_cursor"])
    assert [names_of(page) for page in (first, second, third)] == [
        ["vm-0", "vm-1"],
        ["vm-2", "vm-4"],
        ["changed", "vm-3"],
    ]
    assert third["next_cursor"] is None
    assert first["next_changes_since"] == second["next_changes_since"] == third["next_changes_since"]


async def test_the_next_changes_since_covers_transactions_that_commit_late(ada: Person, engine: AsyncEngine) -> None:
    """Such a change has a time before that of the reading, which did not see it."""
    [vm, *_] = await fleet_of(ada, engine, 1)
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == vm.id).values(name="late"))
        await asyncio.sleep(0.05)
        during = await read(ada, changes_since=(LONG_AGO + timedelta(hours=1)).isoformat())
        assert names_of(during) == []
    after = await read(ada, changes_since=during["next_changes_since"])
    assert names_of(after) == ["late"]


async def test_a_transaction_that_waited_does_not_set_the_time_of_a_change_back(
    ada: Person, engine: AsyncEngine
) -> None:
    """Otherwise the state that it leaves would be older, by its time, than one that a client has already."""
    [vm, *_] = await fleet_of(ada, engine, 1)
    async with engine.begin() as older:
        await older.execute(select(1))
        await change(engine, vm, name="younger")
        between = (await ada.http.get(f"/vms/{vm.id}")).json()
        await older.execute(update(VM).where(VM.id == vm.id).values(name="older"))
    last = (await ada.http.get(f"/vms/{vm.id}")).json()
    assert last["name"] == "older"
    assert datetime.fromisoformat(last["updated_at"]) > datetime.fromisoformat(between["updated_at"])


async def test_a_whole_list_also_says_from_when_on_to_ask_for_changes(ada: Person, engine: AsyncEngine) -> None:
    fleet = await fleet_of(ada, engine)
    whole = await read(ada)
    asked_at = datetime.now(UTC)
    assert asked_at - datetime.fromisoformat(whole["next_changes_since"]) >= pages.MOST_OVERDUE - timedelta(seconds=5)
    assert names_of(await read(ada, changes_since=whole["next_changes_since"])) == []
    await change(engine, fleet[2], status=Status.SHUTOFF)
    assert names_of(await read(ada, changes_since=whole["next_changes_since"])) == ["vm-2"]


async def test_changes_are_paged_by_cursor_and_have_one_order(ada: Person, engine: AsyncEngine) -> None:
    await fleet_of(ada, engine)
    since = LONG_AGO.isoformat()
    answer = await ada.http.get("/vms", params={"changes_since": since, "page_size": 2})
    assert set(links(answer)) == {"first", "next"}
    answer = await ada.http.get(f"http://api{links(answer)['next']}")
    assert names_of(answer.json()) == ["vm-2", "vm-3"]
    assert set(links(answer)) == {"first", "next"}
    for parameters, name in (({"page": 2}, "page"), ({"sort": "name"}, "sort"), ({"sort": "-created_at"}, "sort")):
        refused = await ada.http.get("/vms", params={"changes_since": since, **parameters})
        assert (refused.status_code, pointers(refused.json())) == (422, {name})
        assert refused.json()["errors"][0]["code"] == "conflicting_parameters"


@pytest.mark.parametrize(
    "time",
    ["2026-11-27T19:00:00Z", "2026-11-27t19:00:00.123456789z", "2026-11-27T19:00:00-05:30", "0001-01-01T00:00:00Z"],
)
async def test_a_time_is_written_as_in_rfc_3339(ada: Person, time: str) -> None:
    assert (await ada.http.get("/vms", params={"changes_since": time})).status_code == 200


@pytest.mark.parametrize(
    "time",
    [
        *("", "now", "2026-11-27", "1764270000", "2026-11-27T19:00:00", "2026-11-27 19:00:00Z", "2026-11-27T19:00Z"),
        *("2026-13-27T19:00:00Z", "2026-11-27T25:00:00Z", "2026-11-27T19:00:00+99:00", "0000-01-01T00:00:00Z"),
        *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "\u0661026-11-27T19:00:00Z", "9" * 5000),
    ],
)
async def test_what_is_no_time_is_refused(visitor: Person, time: str) -> None:
    answer = await visitor.http.get("/vms", params={"changes_since": time})
    assert (answer.status_code, pointers(answer.json())) == (422, {"changes_since"})
    assert answer.json()["errors"][0]["code"] in {"wrong_format", "empty_parameter"}


async def test_a_plus_that_is_not_encoded_is_explained(ada: Person) -> None:
    answer = await ada.http.get("/vms?changes_since=2026-11-27T19:00:00+01:00")
    assert (answer.status_code, "%2B" in answer.json()["errors"][0]["detail"]) == (422, True)


@pytest.mark.parametrize("sort", ["updated_at", "-updated_at", "name", "-name", "status", "-status"])
async def test_a_sorted_list_says_that_items_have_moved_while_it_was_read(
    ada: Person, engine: AsyncEngine, sort: str
) -> None:
    fleet = await fleet_of(ada, engine, 8)
    first = await read(ada, sort=sort, page_size=2)
    quiet = await read(ada, sort=sort, page_size=2, cursor=first["next_cursor"])
    assert (first["items_moved"], quiet["items_moved"]) == (False, False)
    await change(engine, fleet[2], name="zzz" if "name" in sort else "vm-2")
    moved = await read(ada, sort=sort, page_size=2, cursor=first["next_cursor"])
    last = await read(ada, sort=sort, page_size=2, cursor=moved["next_cursor"])
    assert (moved["items_moved"], last["items_moved"]) == (True, True)
    assert (await read(ada, sort=sort))["items_moved"] is False


async def test_an_empty_last_page_says_it_too(ada: Person, engine: AsyncEngine) -> None:
    """The one VM of the second page has moved to the first."""
    fleet = await fleet_of(ada, engine, 3)
    first = await read(ada, sort="-updated_at", page_size=2)
    assert names_of(first) == ["vm-2", "vm-1"]
    await change(engine, fleet[0], status=Status.SHUTOFF)
    second = await read(ada, sort="-updated_at", page_size=2, cursor=first["next_cursor"])
    assert (names_of(second), second["items_moved"], second["total"]) == ([], True, 3)


async def test_a_list_in_an_order_that_never_changes_has_no_moved_items(ada: Person, engine: AsyncEngine) -> None:
    fleet = await fleet_of(ada, engine)
    first = await read(ada, page_size=2)
    await change(engine, fleet[0], name="zzz")
    second = await read(ada, page_size=2, cursor=first["next_cursor"])
    assert second["items_moved"] is False


async def test_changes_of_others_and_of_what_the_filter_leaves_out_move_nothing(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    fleet = await fleet_of(ada, engine)
    [other, *_] = await fleet_of(bob, engine, 1)
    first = await read(ada, sort="name", page_size=2, status="ACTIVE")
    await change(engine, other, name="zzz")
    await change(engine, fleet[0], status=Status.SHUTOFF)
    second = await read(ada, sort="name", page_size=2, status="ACTIVE", cursor=first["next_cursor"])
    assert second["items_moved"] is False


async def test_volumes_and_attachments_say_it_too(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    for device in ("/dev/vdb", "/dev/vdc", "/dev/vdd"):
        volume, _ = await attached_to(vm, ada, engine, device=device)
    async with engine.begin() as tx:
        await add_volume(tx, ada.user, name="first")
    first = await read(ada, "/volumes", sort="name", page_size=1)
    attached = await read(ada, f"/vms/{vm.id}/volumes", page_size=1)
    assert (await ada.http.patch(f"/volumes/{volume.id}", json={"name": "another"})).status_code == 200
    async with engine.begin() as tx:
        await note_vms_changed(tx)
        await tx.execute(update(Attachment).where(Attachment.volume_id == volume.id).values(device="/dev/vda1"))
    second = await read(ada, "/volumes", sort="name", page_size=1, cursor=first["next_cursor"])
    assert second["items_moved"] is True
    assert (await read(ada, f"/vms/{vm.id}/volumes", page_size=1, cursor=attached["next_cursor"]))["items_moved"]


async def test_a_cursor_of_the_version_before_still_leads_on(
    ada: Person, engine: AsyncEngine, settings: Settings
) -> None:
    """It does not say when its walk began."""
    await fleet_of(ada, engine)
    first = await read(ada, sort="name", page_size=2)
    path, order, page, position, since = security.unseal(signing_of(settings), first["next_cursor"])
    assert re.fullmatch(r"\d{4}-.*\+00:00", since)
    assert UUID(position[1])
    early = security.seal(signing_of(settings), [path, order, page, position])
    second = await read(ada, sort="name", page_size=2, cursor=early)
    assert (names_of(second), second["items_moved"]) == (["vm-2", "vm-3"], False)
    assert second["next_cursor"]
