"""The watcher: one list for all waiters, nothing missed, nothing concluded from what a list leaves out."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import pytest

from activities.backends.openstack.errors import Service
from activities.backends.openstack.polling import KEEP
from activities.backends.openstack.reading import Answer, Query, pages
from activities.backends.openstack.records import DownServer, Gone, ImageRow, PortRow, ServerRow, VolumeRow
from activities.backends.openstack.watcher import IDS_OF_A_QUERY, Watcher
from activities.backends.protocol import BackendError
from tests.backends.openstack.clocks import FakeClock
from tests.backends.openstack.recordings import Recording
from tests.backends.openstack.small_cloud import SmallCloud


@pytest.fixture
def cloud() -> SmallCloud:
    return SmallCloud(FakeClock())


@pytest.fixture
def watcher(cloud: SmallCloud) -> Watcher:
    return Watcher(cloud.fetch, cloud.clock)


async def status_of(watcher: Watcher, id: str) -> str:
    """Return what the next poll shows of the server."""
    found = (await watcher.servers.ask({id})).get(id)
    return found.status if isinstance(found, ServerRow) else type(found).__name__


@pytest.mark.parametrize("waiters", [1, 10, 100])
async def test_a_tick_costs_one_call_for_any_number_of_waiters(
    cloud: SmallCloud, watcher: Watcher, waiters: int
) -> None:
    ids = [cloud.add_server("BUILD") for _ in range(waiters)]
    for _ in range(11):
        for id in ids:
            cloud.change_server(id, "BUILD", "spawning")
        await asyncio.gather(*(watcher.servers.ask({id}) for id in ids))
    assert len(cloud.calls) == 11
    assert [call.partition("=")[0] for call in cloud.calls[1:]] == ["compute /servers/detail?changes-since"] * 10
    assert cloud.calls[0] == ("compute /servers/detail" if waiters > 3 else f"compute /servers/{ids[0]}")


async def test_once_a_minute_a_plain_list_looks_for_cells_that_are_down(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("BUILD")
    while cloud.clock.time < 290:
        await watcher.servers.ask({id})
    plain = [call for call in cloud.calls if call == "compute /servers"]
    assert len(plain) == 4


async def test_a_change_is_seen_by_the_next_tick(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("BUILD")
    assert await status_of(watcher, id) == "BUILD"
    cloud.change_server(id, "ACTIVE")
    assert await status_of(watcher, id) == "ACTIVE"


async def test_a_server_that_does_not_change_is_as_it_was(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("ACTIVE")
    cloud.clock.time += 100
    for _ in range(20):
        assert await status_of(watcher, id) == "ACTIVE"
    assert cloud.answers[-1].body == {"servers": []}


async def test_changes_are_asked_for_by_the_clouds_clock_with_an_overlap(cloud: SmallCloud, watcher: Watcher) -> None:
    cloud.begin += timedelta(days=500)  # the cloud's clock is far from ours
    cloud.latency = 2.0
    id = cloud.add_server("BUILD")
    await watcher.servers.ask({id})
    first = cloud.answers[0].date
    await watcher.servers.ask({id})
    expected = first - timedelta(seconds=2 + 5)
    assert cloud.calls[1] == f"compute /servers/detail?changes-since={expected:%Y-%m-%dT%H:%M:%SZ}"


async def test_a_change_that_a_slow_host_dated_some_seconds_ago_is_seen(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("BUILD")
    cloud.clock.time += 60
    await watcher.servers.ask({id})
    cloud.change_server(id, "ACTIVE", age=4)
    assert await status_of(watcher, id) == "ACTIVE"


async def test_a_server_that_no_list_shows_yet_is_read_by_its_id(cloud: SmallCloud, watcher: Watcher) -> None:
    old, new = cloud.add_server("ACTIVE"), cloud.add_server("BUILD")
    await watcher.servers.ask({old})
    cloud.hide_from_changes(new)
    assert (await watcher.servers.ask({old, new})).keys() == {old, new}
    assert cloud.calls[-1] == f"compute /servers/{new}"


async def test_only_the_clouds_own_404_says_that_a_server_is_gone(cloud: SmallCloud, watcher: Watcher) -> None:
    id, other = cloud.add_server("ACTIVE"), cloud.add_server("ACTIVE")
    assert await status_of(watcher, "unknown") == "Gone"
    await watcher.servers.ask({id, other})
    cloud.error = BackendError("cloud_unavailable", "A proxy answered 404.", retryable=True)
    cloud.error_on = f"/servers/{id}"
    cloud.forget_in_watcher(watcher)
    found = await watcher.servers.ask({id, other})
    assert found.keys() == {other}


async def test_a_server_that_is_deleted_shows_so(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("ACTIVE")
    await watcher.servers.ask({id})
    cloud.change_server(id, "DELETED")
    assert await status_of(watcher, id) == "DELETED"


async def test_a_server_that_is_gone_is_not_asked_for_again(cloud: SmallCloud, watcher: Watcher) -> None:
    await watcher.servers.ask({"unknown"})
    await watcher.servers.ask({"unknown"})
    assert len(cloud.calls) == 1


async def test_a_server_of_a_cell_that_is_down_is_unknown_until_the_cell_is_back(
    cloud: SmallCloud, watcher: Watcher
) -> None:
    id = cloud.add_server("BUILD")
    await watcher.servers.ask({id})
    cloud.is_down = True
    seen = []
    while cloud.clock.time < 100:
        seen.append((await watcher.servers.ask({id}))[id])
    assert isinstance(seen[0], ServerRow)
    assert isinstance(seen[-1], DownServer)
    cloud.change_server(id, "ACTIVE", age=60)  # too long ago for a list of changes
    cloud.is_down = False
    while cloud.clock.time < 200:
        await watcher.servers.ask({id})
    assert await status_of(watcher, id) == "ACTIVE"
    assert cloud.calls.count(f"compute /servers/{id}") == 2


async def test_pages_are_followed_to_the_end(cloud: SmallCloud, watcher: Watcher) -> None:
    ids = [cloud.add_server("BUILD") for _ in range(7)]
    cloud.page_size = 3
    await watcher.servers.ask(ids)
    for id in ids:
        cloud.change_server(id, "ACTIVE")
    found = await watcher.servers.ask(ids)
    assert {row.status for row in found.values() if isinstance(row, ServerRow)} == {"ACTIVE"}
    assert len(cloud.calls) == 6


@pytest.mark.parametrize("markers", ["7", "78", "789"])
async def test_pages_that_come_again_are_an_error(markers: str) -> None:
    """One names itself as the next one, or they name each other."""
    following = cycle(markers)
    asked = list[tuple[Service, str, Query]]()

    async def fetch(service: Service, path: str, query: Query) -> Answer:
        asked.append((service, path, query))
        return Answer({"images": [], "next": f"/v2/images?marker={next(following)}"}, datetime.now(UTC))

    with pytest.raises(BackendError, match="has no end"):
        [page async for page in pages(fetch, Service.IMAGE, "/images", (), "images")]
    assert len(asked) == len(markers) + 1


async def test_pages_of_the_real_cloud_are_followed_although_a_marker_is_deleted_meanwhile() -> None:
    pages = [exchange for exchange in Recording("lists/changes").exchanges if exchange.moment == "page"]
    queries: list[dict[str, str]] = []

    async def fetch(service: Service, path: str, query: Query) -> Answer:
        assert (service, path) == (Service.COMPUTE, "/servers/detail")
        queries.append(dict(query))
        page = pages[len(queries) - 1]
        return Answer(page.body, page.date)

    ids = [row["id"] for page in pages for row in page.body["servers"]]
    found = await Watcher(fetch, FakeClock()).servers.ask(ids)
    assert found.keys() == set(ids)
    assert [query.get("marker") for query in queries] == [None, ids[1], ids[3]]


async def test_a_fault_that_lists_leave_out_is_read_once(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("BUILD")
    await watcher.servers.ask({id})
    cloud.change_server(id, "ERROR", fault="No valid host was found. ")
    for _ in range(8):
        row = (await watcher.servers.ask({id}))[id]
    assert isinstance(row, ServerRow)
    assert row.fault
    assert row.fault.message == "No valid host was found."
    assert [call for call in cloud.calls if call == f"compute /servers/{id}"] == [f"compute /servers/{id}"] * 2


async def test_a_failed_list_loses_no_change(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("BUILD")
    await watcher.servers.ask({id})
    cloud.change_server(id, "ACTIVE")
    cloud.error = BackendError("cloud_unavailable", "The cloud is away.", retryable=True)
    cloud.error_on = "/servers/detail"
    cloud.errors_left = 20
    assert await status_of(watcher, id) == "ACTIVE"
    assert cloud.clock.time > 300


async def test_only_servers_that_are_waited_for_are_remembered(cloud: SmallCloud, watcher: Watcher) -> None:
    ids = [cloud.add_server("ACTIVE") for _ in range(50)]
    await watcher.servers.ask(ids[:10])
    await watcher.servers.ask(ids[:2])
    assert cloud.remembered(watcher) == set(ids[:10])
    while cloud.clock.time < KEEP + 2:
        await watcher.servers.ask(ids[:2])
    assert cloud.remembered(watcher) == set(ids[:2])


async def test_after_a_long_time_without_waiters_old_changes_are_not_read(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("ACTIVE")
    await watcher.servers.ask({id})
    cloud.clock.time += 3600
    await watcher.servers.ask({id})
    assert cloud.calls == [f"compute /servers/{id}"] * 2


@pytest.mark.parametrize("kind", ["volumes", "images", "ports"])
@pytest.mark.parametrize(("waiters", "calls"), [(1, 1), (10, 1), (50, 1)])
async def test_things_that_hang_on_servers_cost_one_call_a_tick_too(
    cloud: SmallCloud, watcher: Watcher, kind: str, waiters: int, calls: int
) -> None:
    ids = [cloud.add(kind) for _ in range(waiters)]
    found = await getattr(watcher, kind).ask(ids)
    assert found.keys() == set(ids)
    assert {type(row) for row in found.values()} <= {VolumeRow, ImageRow, PortRow}
    assert len(cloud.calls) == calls


@pytest.mark.parametrize(("kind", "calls"), [("volumes", 1), ("images", 3), ("ports", 3)])
async def test_many_ids_are_asked_for_in_groups(cloud: SmallCloud, watcher: Watcher, kind: str, calls: int) -> None:
    ids = [cloud.add(kind) for _ in range(2 * IDS_OF_A_QUERY + 1)]
    assert (await getattr(watcher, kind).ask(ids)).keys() == set(ids)
    assert len(cloud.calls) == calls


@pytest.mark.parametrize("kind", ["volumes", "images", "ports"])
async def test_a_thing_is_gone_only_if_its_own_answer_says_so(cloud: SmallCloud, watcher: Watcher, kind: str) -> None:
    ids = [cloud.add(kind), cloud.add(kind)]
    found = await getattr(watcher, kind).ask([*ids, "unknown"])
    assert found["unknown"] == Gone("unknown")
    assert cloud.calls[-1].endswith("/unknown")


async def test_nobody_who_waits_for_servers_makes_a_call_for_volumes(cloud: SmallCloud, watcher: Watcher) -> None:
    await watcher.servers.ask({cloud.add_server("ACTIVE")})
    assert all(call.startswith("compute") for call in cloud.calls)


async def test_an_answer_that_cannot_be_read_is_asked_for_again(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("ACTIVE")
    spoil: Callable[[Any], Any] = lambda body: {"servers": [{}]} if "servers" in body else {"server": {}}  # noqa: E731
    cloud.spoil = [spoil]
    assert await status_of(watcher, id) == "ACTIVE"
    assert len(cloud.calls) == 2


async def test_a_thing_that_cannot_be_read_is_asked_for_again(cloud: SmallCloud, watcher: Watcher) -> None:
    server, volume = cloud.add_server("ACTIVE"), cloud.add("volumes")
    cloud.error = BackendError("cloud_timeout", "The cloud did not answer.", retryable=True)
    cloud.error_on = f"/servers/{server}"
    assert await status_of(watcher, server) == "ACTIVE"
    cloud.error_on, cloud.errors_left = f"/volumes/{volume}", 1
    assert (await watcher.volumes.ask({volume})).keys() == {volume}
    assert len(cloud.calls) == 4


async def test_a_mistake_in_the_program_reaches_who_asks(cloud: SmallCloud, watcher: Watcher) -> None:
    id = cloud.add_server("ACTIVE")

    def fail(body: Any) -> Any:
        raise KeyError(body)

    cloud.spoil = [fail]
    with pytest.raises(KeyError):
        await watcher.servers.ask({id})


async def test_closing_ends_all_polls(cloud: SmallCloud, watcher: Watcher) -> None:
    await watcher.servers.ask({cloud.add_server("ACTIVE")})
    await watcher.close()
