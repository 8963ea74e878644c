"""Lists: pages, cursors, Link headers, sorting, and filters of VMs and operations."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.data.models import VM
from domain.rules.states import Action, OperationStatus, Status
from domain.settings import Settings
from tests.api.conftest import Person, client_of, person, running, signing_of
from tests.conftest import make_settings
from tests.support.rows import add_operation, add_vm

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)  # rows that are kept
NAMES = ["delta", "alpha", "Charlie", "bravo", "echo", "alpha", "100%", "under_score", "back\\slash"]
STATUSES = [Status.ACTIVE, Status.SHUTOFF, Status.ERROR, Status.DELETED]


@pytest.fixture
async def fleet(ada: Person, bob: Person, engine: AsyncEngine) -> list[VM]:
    """VMs of ada, newest last, two with the same time; bob has another, which no list of hers may show."""
    async with engine.begin() as tx:
        await add_vm(tx, bob.user, name="alpha")
        return [
            await add_vm(
                tx,
                ada.user,
                name=name,
                status=STATUSES[n % 4],
                labels={"n": str(n), "env": "prod" if n % 2 else "test"} | ({"odd": ""} if n % 2 else {}),
                created_at=NOON + timedelta(minutes=max(n, 1)),
                updated_at=NOON - timedelta(minutes=n),
            )
            for n, name in enumerate(NAMES)
        ]


def links(answer: httpx.Response) -> dict[str, str]:
    """The URLs of the Link header, by relation."""
    return {rel: url for url, rel in re.findall(r'<([^>]+)>; rel="(\w+)"', answer.headers["Link"])}


async def names(ada: Person, **parameters: Any) -> list[str]:
    """The names of the VMs on the page, in order."""
    answer = await ada.http.get("/vms", params=parameters)
    assert answer.status_code == 200, answer.text
    return [vm["name"] for vm in answer.json()["items"]]


@pytest.mark.usefixtures("fleet")
async def test_a_page_has_its_counts_and_links_to_other_pages(ada: Person) -> None:
    answer = await ada.http.get("/vms", params={"page": 2, "page_size": 3, "labels": "n"})
    page = answer.json()
    assert {name: page[name] for name in ("total", "page", "page_size", "pages")} == {
        "total": 7,
        "page": 2,
        "page_size": 3,
        "pages": 3,
    }
    assert len(page["items"]) == 3
    urls = links(answer)
    assert set(urls) == {"first", "prev", "next", "last"}
    for rel, number in {"first": 1, "prev": 1, "next": 3, "last": 3}.items():
        other = (await ada.http.get(f"http://api{urls[rel]}")).json()
        assert (other["page"], other["page_size"], other["total"]) == (number, 3, 7)


@pytest.mark.usefixtures("fleet")
async def test_the_last_page_and_the_pages_after_it(ada: Person) -> None:
    last = await ada.http.get("/vms", params={"page": 3, "page_size": 3})
    assert (len(last.json()["items"]), last.json()["next_cursor"]) == (1, None)
    assert set(links(last)) == {"first", "prev", "last"}
    beyond = await ada.http.get("/vms", params={"page": 1_000_000, "page_size": 3})
    assert (beyond.status_code, beyond.json()["items"], beyond.json()["total"]) == (200, [], 7)
    assert links(beyond)["prev"].endswith("page=3")
    exact = await ada.http.get("/vms", params={"page_size": 7})
    assert (exact.json()["pages"], exact.json()["next_cursor"]) == (1, None)


async def test_an_empty_list_has_no_pages(ada: Person) -> None:
    answer = await ada.http.get("/vms")
    assert answer.json() == {
        "items": [],
        "total": 0,
        "total_is_exact": True,
        "page": 1,
        "page_size": 20,
        "pages": 0,
        "next_cursor": None,
        "items_moved": False,
        "next_changes_since": answer.json()["next_changes_since"],
    }
    assert set(links(answer)) == {"first", "last"}


SORTS = [f"{sign}{column}" for column in ("created_at", "updated_at", "name", "status") for sign in ("", "-")]


@pytest.mark.parametrize("sort", SORTS)
async def test_pages_cursors_and_links_give_the_same_order(ada: Person, fleet: list[VM], sort: str) -> None:
    column = sort.removeprefix("-")
    visible = [vm for vm in fleet if vm.status is not Status.DELETED]
    expected = sorted(visible, key=lambda vm: (getattr(vm, column), vm.id), reverse=sort.startswith("-"))
    ids = [str(vm.id) for vm in expected]

    async def read(parameters: dict[str, str | int]) -> dict[str, Any]:
        answer = await ada.http.get("/vms", params=parameters | {"sort": sort, "page_size": 2})
        assert answer.status_code == 200
        page: dict[str, Any] = answer.json()
        return page

    by_page = [await read({"page": number}) for number in (1, 2, 3, 4)]
    by_cursor = [by_page[0]]
    while cursor := by_cursor[-1]["next_cursor"]:
        by_cursor.append(await read({"cursor": cursor}))
    answer = await ada.http.get("/vms", params={"sort": sort, "page_size": 2})
    by_link = [answer.json()]
    while "next" in links(answer):
        answer = await ada.http.get(f"http://api{links(answer)['next']}")
        by_link.append(answer.json())
    assert [vm["id"] for page in by_page for vm in page["items"]] == ids
    assert not any(page["items_moved"] for page in by_page + by_cursor + by_link)
    # A cursor also holds when its walk through the list began.
    without_times = [
        [{key: page[key] for key in page.keys() - {"next_cursor", "next_changes_since"}} for page in walk]
        for walk in (by_page, by_cursor, by_link)
    ]
    assert without_times[1] == without_times[2] == without_times[0]


async def test_cursors_neither_repeat_nor_skip_items_when_others_are_added_or_deleted(
    ada: Person, fleet: list[VM], engine: AsyncEngine
) -> None:
    first = (await ada.http.get("/vms", params={"page_size": 2})).json()
    async with engine.begin() as tx:
        await tx.execute(delete(VM).where(VM.id == UUID(first["items"][1]["id"])))
        await add_vm(tx, ada.user, name="newest")
    second = (await ada.http.get("/vms", params={"page_size": 2, "cursor": first["next_cursor"]})).json()
    by_age = [vm for vm in reversed(fleet) if vm.status is not Status.DELETED]
    assert [vm["id"] for vm in second["items"]] == [str(vm.id) for vm in by_age[2:4]]
    assert second["page"] == 2


async def test_a_cursor_with_the_longest_possible_name_is_accepted(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        for first in ("\U0001f600", "\U0001f601"):
            await add_vm(tx, ada.user, name=first + 254 * "\U0001f600")
    page = (await ada.http.get("/vms", params={"sort": "name", "page_size": 1})).json()
    rest = await ada.http.get("/vms", params={"sort": "name", "page_size": 1, "cursor": page["next_cursor"]})
    assert (rest.status_code, len(rest.json()["items"])) == (200, 1)


@pytest.mark.usefixtures("fleet")
async def test_cursors_of_other_lists_and_orders_and_forged_cursors_are_refused(
    ada: Person, settings: Settings
) -> None:
    cursor = (await ada.http.get("/vms", params={"page_size": 2})).json()["next_cursor"]
    payload = security.unseal(signing_of(settings), cursor)
    forged = security.seal(security.Signing("another-secret-of-more-than-32-bytes", "HS256"), payload)
    for parameters in (
        {"cursor": cursor, "sort": "created_at"},
        {"cursor": cursor, "sort": "name"},
        {"cursor": forged},
        {"cursor": cursor[:-4]},
        {"cursor": f"A{cursor[1:]}" if cursor[0] != "A" else f"B{cursor[1:]}"},
    ):
        answer = await ada.http.get("/vms", params=parameters)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")
    for path in ("/operations", "/volumes"):
        answer = await ada.http.get(path, params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


@pytest.mark.usefixtures("fleet")
async def test_filters_by_status(ada: Person) -> None:
    assert set(await names(ada)) == set(NAMES) - {"bravo", "under_score"}
    assert set(await names(ada, status="DELETED")) == {"bravo", "under_score"}
    assert set(await names(ada, status="ERROR,SHUTOFF")) == {"alpha", "Charlie", "100%"}
    assert set(await names(ada, status=["ERROR", "SHUTOFF,DELETED"])) == {
        *("alpha", "Charlie", "100%", "bravo", "under_score"),
    }
    assert await names(ada, status="BUILDING") == []


@pytest.mark.usefixtures("fleet")
async def test_filters_by_a_literal_part_of_the_name(ada: Person) -> None:
    assert await names(ada, name="CHAR", sort="name") == ["Charlie"]
    assert await names(ada, name="lph") == ["alpha", "alpha"]
    assert await names(ada, name="%") == ["100%"]
    assert await names(ada, name="_", status="DELETED") == ["under_score"]
    assert await names(ada, name="_") == []
    assert await names(ada, name="\\") == ["back\\slash"]
    assert await names(ada, name="'; --") == []


@pytest.mark.usefixtures("fleet")
async def test_filters_by_labels(ada: Person) -> None:
    assert set(await names(ada, labels="env=prod")) == {"alpha"}
    assert set(await names(ada, labels="env=prod,odd", status="ACTIVE,SHUTOFF,DELETED")) == {
        *("alpha", "bravo", "under_score"),
    }
    assert await names(ada, labels=["env=test", "n=2"]) == ["Charlie"]
    assert await names(ada, labels="odd=") == ["alpha", "alpha"]
    assert await names(ada, labels="env=pro") == []
    assert await names(ada, labels="n=2,n=3") == []
    assert await names(ada, labels="absent") == []
    assert await names(ada, labels="odd,absent") == []
    assert set(await names(ada, labels="odd,n,env=prod")) == {"alpha"}


@pytest.mark.usefixtures("fleet")
async def test_links_contain_the_filters(ada: Person) -> None:
    answer = await ada.http.get("/vms", params={"status": ["ACTIVE", "ERROR"], "name": "a & b", "page_size": 1})
    assert links(answer)["first"] == "/api/v1/vms?status=ACTIVE&status=ERROR&name=a+%26+b&page_size=1&page=1"


async def test_operations_are_filtered_and_only_those_of_the_caller_are_listed(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        first, second, foreign = [await add_vm(tx, user) for user in (ada.user, ada.user, bob.user)]
        create = await add_operation(tx, first, Action.CREATE, status=OperationStatus.SUCCEEDED)
        hard = await add_operation(tx, first, Action.REBOOT_HARD)
        soft = await add_operation(tx, second, Action.REBOOT_SOFT, status=OperationStatus.FAILED)
        await add_operation(tx, foreign, Action.CREATE)

    async def ids(path: str = "/operations", **parameters: Any) -> set[UUID]:
        answer = await ada.http.get(path, params=parameters)
        assert answer.json()["total"] == len(answer.json()["items"])
        return {UUID(operation["id"]) for operation in answer.json()["items"]}

    assert await ids() == {create.id, hard.id, soft.id}
    assert await ids(action="reboot") == {hard.id, soft.id}
    assert await ids(action="create,reboot", status="RUNNING") == {hard.id}
    assert await ids(status=["FAILED", "SUCCEEDED"]) == {create.id, soft.id}
    assert await ids(vm_id=str(second.id)) == {soft.id}
    assert await ids(vm_id=str(foreign.id)) == set()
    assert await ids(vm_id=str(uuid4())) == set()
    assert await ids(f"/vms/{first.id}/operations") == {create.id, hard.id}
    refused = await ada.http.get("/operations", params={"action": "reboot-hard"})
    assert refused.status_code == 422


async def test_page_sizes_come_from_the_settings(settings: Settings, engine: AsyncEngine) -> None:
    small = make_settings(settings.database_url, default_page_size=2, max_page_size=3)
    async with running(small) as app:
        carl = await person(app, engine, small, "carl")
        document = (await client_of(app).get("/openapi.json")).json()
        page = (await carl.http.get("/flavors")).json()
        largest = (await carl.http.get("/flavors", params={"page_size": 3})).json()
        too_large = await carl.http.get("/flavors", params={"page_size": 4})
    assert (len(page["items"]), page["pages"]) == (2, 3)
    assert (len(largest["items"]), largest["pages"]) == (3, 2)
    assert too_large.status_code == 422
    [size] = [p for p in document["paths"]["/api/v1/flavors"]["get"]["parameters"] if p["name"] == "page_size"]
    assert (size["schema"]["description"], size["schema"]["maximum"]) == ("Default: `2`.", 3)
