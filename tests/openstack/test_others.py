"""What others do in a real cloud: it is recorded within a minute. Leftovers go, strangers stay or are adopted."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.openstack.others import Others
from tests.support.stack import Stack
from tests.support.users import PASSWORD, User
from tests.support.waiting import poll

pytestmark = pytest.mark.skipif("OS_CLOUD" not in os.environ, reason="needs a real cloud")

A_MINUTE = 60.0
ADMIN = "drill-admin"
IN_THREAD = asyncio.to_thread
Change = Callable[["Drill"], Awaitable[None]]


class Drill:
    """A VM of ours, and somebody who changes its server."""

    def __init__(self, user: User, others: Others) -> None:
        self.user, self.others = user, others
        self.vm_id, self.server_id = "", ""

    async def begin(self, name: str) -> None:
        """Build the VM."""
        self.vm_id = await self.user.create_active(name)
        self.server_id = await IN_THREAD(self.others.server_of, self.vm_id)

    async def act(self, *statuses: str, **action: Any) -> None:
        """Let somebody change the server; return when the cloud has done it."""
        await IN_THREAD(lambda: self.others.act(self.server_id, **action))
        await IN_THREAD(self.others.settle, self.server_id, *statuses)

    async def until(self, **fields: Any) -> None:
        """Wait until the VM shows these fields, for a minute at most."""
        await self.until_shown(f"/vms/{self.vm_id}", lambda vm: {**vm, **fields} == vm)

    async def until_shown(self, path: str, is_so: Callable[[Any], bool]) -> None:
        """Do the same for any resource."""
        await poll(lambda: self.user.read(path), is_so, deadline=A_MINUTE, interval=self.user.poll_every)


async def deleted(drill: Drill) -> None:
    await IN_THREAD(drill.others.send, "DELETE", "compute", f"/servers/{drill.server_id}")
    await drill.until(status="ERROR")


async def stopped_and_started(drill: Drill) -> None:
    await drill.act("SHUTOFF", **{"os-stop": None})
    await drill.until(status="SHUTOFF")
    await drill.act("ACTIVE", **{"os-start": None})
    await drill.until(status="ACTIVE")


async def resized_and_confirmed(drill: Drill) -> None:
    flavor = (await drill.user.flavors())[1]
    await drill.act("VERIFY_RESIZE", resize={"flavorRef": flavor})
    await drill.until(status="VERIFY_RESIZE", flavor_id=flavor)
    await drill.act("ACTIVE", confirmResize=None)
    await drill.until(status="ACTIVE", flavor_id=flavor)


async def resized_and_reverted_by_us(drill: Drill) -> None:
    before, flavor = (await drill.user.flavors())[:2]
    await drill.act("VERIFY_RESIZE", resize={"flavorRef": flavor})
    await drill.until(status="VERIFY_RESIZE", flavor_id=flavor)
    await drill.user.act(drill.vm_id, "revert-resize")
    vm = await drill.user.until(drill.vm_id, "ACTIVE", "ERROR")
    assert (vm["status"], vm["flavor_id"]) == ("ACTIVE", before)


async def migrated_and_confirmed_by_us(drill: Drill) -> None:
    await drill.act("VERIFY_RESIZE", migrate=None)
    await drill.until(status="VERIFY_RESIZE")
    await drill.user.act(drill.vm_id, "confirm-resize")
    assert (await drill.user.until(drill.vm_id, "ACTIVE", "ERROR"))["status"] == "ACTIVE"


async def put_into_error_and_back(drill: Drill) -> None:
    await drill.act("ERROR", **{"os-resetState": {"state": "error"}})
    await drill.until(status="ERROR")
    await drill.act("ACTIVE", **{"os-resetState": {"state": "active"}})
    await drill.until(status="ACTIVE", fault=None)


async def rebuilt(drill: Drill) -> None:
    """From an image that somebody makes; a worker brings it into the catalogue within three minutes."""
    image_id = await IN_THREAD(drill.others.make_image, "drill")
    try:
        shown = f"/images/{image_id}"
        await poll(lambda: drill.user.request("GET", shown), lambda answer: answer.status_code == 200, deadline=300)
        await drill.act("ACTIVE", rebuild={"imageRef": image_id})
        await drill.until(status="ACTIVE", image_id=image_id)
    finally:
        await IN_THREAD(drill.others.send, "DELETE", "image", f"/images/{image_id}")


async def new_volume(user: User, name: str) -> str:
    """Build a volume, and return its id."""
    answer = await user.request("POST", "/volumes", json={"name": f"drill-{name}", "size_gb": 1})
    volume_id = str(answer.json()["id"])
    await poll(lambda: user.read(f"/volumes/{volume_id}"), lambda volume: volume["status"] == "AVAILABLE")
    return volume_id


async def volume_detached_and_deleted(drill: Drill) -> None:
    volume_id = await new_volume(drill.user, "attached")
    path = f"/volumes/{volume_id}"
    await drill.user.request("POST", f"/vms/{drill.vm_id}/volumes", json={"volume_id": volume_id})
    await drill.until_shown(path, lambda volume: volume["status"] == "IN_USE")
    cloud_id = await IN_THREAD(drill.others.volume_of, volume_id)
    attachment = f"/servers/{drill.server_id}/os-volume_attachments/{cloud_id}"
    await IN_THREAD(drill.others.send, "DELETE", "compute", attachment)
    await drill.until_shown(path, lambda volume: volume["status"] == "AVAILABLE")
    await IN_THREAD(drill.others.send, "DELETE", "block_storage", f"/volumes/{cloud_id}")
    await drill.until_shown(path, lambda volume: volume["status"] == "ERROR")
    await drill.user.request("DELETE", path)


async def port_removed(drill: Drill) -> None:
    for port in await IN_THREAD(drill.others.ports_of, drill.server_id):
        await IN_THREAD(drill.others.send, "DELETE", "network", f"/ports/{port}")
    await drill.until_shown(f"/vms/{drill.vm_id}/interfaces", lambda page: page["items"] == [])


async def port_taken_away_and_given_back(drill: Drill) -> None:
    """Nova has made the port, so it has no mark of ours."""
    path = f"/vms/{drill.vm_id}/interfaces"
    before = (await drill.user.read(path))["items"]
    [port] = await IN_THREAD(drill.others.ports_of, drill.server_id)
    taken, given_back = [{"port": {"device_id": server_id}} for server_id in ("", drill.server_id)]
    await IN_THREAD(drill.others.send, "PUT", "network", f"/ports/{port}", taken)
    await drill.until_shown(path, lambda page: page["items"] == [])
    await IN_THREAD(drill.others.send, "PUT", "network", f"/ports/{port}", given_back)
    await drill.until_shown(path, lambda page: len(page["items"]) == 1)
    [after] = (await drill.user.read(path))["items"]
    changed = {"operation_id", "created_at"}
    assert [(name, value) for name, value in after.items() if value != before[0][name] and name not in changed] == []


ALLOWED_TO_MEMBERS: list[Change] = [
    deleted,
    stopped_and_started,
    resized_and_confirmed,
    resized_and_reverted_by_us,
    rebuilt,
    volume_detached_and_deleted,
    port_removed,
    port_taken_away_and_given_back,
]
ALLOWED_TO_OPERATORS: list[Change] = [migrated_and_confirmed_by_us, put_into_error_and_back]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with an admin."""
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack.at(folder, COMPUTE_BACKEND="openstack")
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[User]:
    """The admin, who deletes all VMs in the end."""
    account = {"username": ADMIN, "password": PASSWORD}
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http:
        user = User(http, poll_every=1.0)
        user.deadline = 300.0  # the cloud may share the machine with the tests
        await user.request("POST", "/auth/register", json=account | {"email": "admin@example.com"})
        stack.grant(ADMIN)
        tokens = (await user.request("POST", "/auth/login", json=account)).json()
        http.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        await poll(user.flavors, bool)  # a worker reads the cloud's catalogue when it starts
        yield user
        for vm in (await user.read("/vms?page_size=100"))["items"]:
            await user.request("DELETE", f"/vms/{vm['id']}")
        await user.until_nothing_open()


@pytest.fixture
async def others() -> AsyncIterator[Others]:
    """Somebody with another tool."""
    others = Others()
    yield others
    await IN_THREAD(others.close)


async def test_what_others_do_is_recorded_within_a_minute(user: User, others: Others) -> None:
    changes = ALLOWED_TO_MEMBERS + (ALLOWED_TO_OPERATORS if others.has_operator else [])
    drills = [Drill(user, others) for _ in changes]
    for drill, change in zip(drills, changes, strict=True):
        await drill.begin(f"drill-{change.__name__.replace('_', '-')}")
    ends = await asyncio.gather(
        *(change(drill) for drill, change in zip(drills, changes, strict=True)), return_exceptions=True
    )
    failed = {change.__name__: end for change, end in zip(changes, ends, strict=True) if end is not None}
    assert not failed


async def server_like(drill: Drill) -> tuple[dict[str, Any], dict[str, Any]]:
    """What somebody asks the cloud for to get a server like the VM's, and the marks that make it a double."""
    (build,) = (await drill.user.read(f"/vms/{drill.vm_id}/operations"))["items"]
    vm = await drill.user.read(f"/vms/{drill.vm_id}")
    network = (await drill.user.read("/networks"))["items"][0]["id"]
    server = {"flavorRef": vm["flavor_id"], "imageRef": vm["image_id"], "networks": [{"uuid": network}]}
    marks = {
        "tags": [f"vm:{drill.vm_id}", f"op:{build['id']}"],
        "metadata": {"osvm_vm": drill.vm_id, "osvm_operation": build["id"]},
    }
    return server, marks


async def adopt(drill: Drill, stranger: str) -> None:
    """Adopt a server as soon as a worker has found it, and leave it as it is."""
    await poll(
        lambda: drill.user.read("/admin/servers?managed=false&page_size=100"),
        # A worker may have read it while it was being built.
        lambda page: stranger in {item["id"] for item in page["items"] if item["obstacle"] is None},
        deadline=2 * A_MINUTE,
        interval=1.0,
    )
    before = await IN_THREAD(drill.others.settle, stranger, "ACTIVE")
    adopted = await drill.user.request("POST", f"/admin/servers/{stranger}/adopt", json={"username": ADMIN})
    assert adopted.status_code == 202, adopted.text
    assert await IN_THREAD(drill.others.settle, stranger, "ACTIVE") == before, "an adopted server is not touched"


async def until_gone(others: Others, service: str, path: str) -> None:
    """Wait until the cloud has it no more."""
    await poll(
        lambda: IN_THREAD(others.exists, service, path),
        lambda exists: not exists,
        deadline=3 * A_MINUTE,
        interval=2.0,
    )


async def test_leftovers_go_and_strangers_stay_until_they_are_adopted(user: User, others: Others) -> None:
    drill = Drill(user, others)
    await drill.begin("drill-good")
    server, marks = await server_like(drill)
    double = await IN_THREAD(others.make_server, server | marks | {"name": "drill-double"})
    stranger = await IN_THREAD(others.make_server, server | {"name": "drill-stranger"})
    await adopt(drill, stranger)
    await until_gone(others, "compute", f"/servers/{double}")
    assert await IN_THREAD(others.settle, drill.server_id, "ACTIVE")
    await user.act(stranger, "stop")
    assert (await user.until(stranger, "SHUTOFF", "ERROR"))["status"] == "SHUTOFF"


@pytest.mark.usefixtures("test_cloud")
async def test_a_volume_that_somebody_restored_from_a_backup_stays(user: User, others: Others) -> None:
    """Cinder gives it the marks of the volume that was backed up. Only admins see it, and it may be adopted."""
    drill = Drill(user, others)
    await drill.begin("drill-backups")
    kept, deleted = [await new_volume(user, name) for name in ("kept", "deleted")]
    copies: dict[str, str] = {}
    for volume_id in (kept, deleted):
        cloud_id = await IN_THREAD(others.volume_of, volume_id)
        backup = await IN_THREAD(others.back_up, cloud_id)
        if volume_id == deleted:
            await user.request("DELETE", f"/volumes/{volume_id}")
            await until_gone(others, "block_storage", f"/volumes/{cloud_id}")
        copies[volume_id] = await IN_THREAD(others.restore, backup)
    marked = {id: (await IN_THREAD(others.volume, copy))["metadata"] for id, copy in copies.items()}
    assert {id: metadata.get("osvm_volume") for id, metadata in marked.items()} == {id: id for id in copies}

    server, marks = await server_like(drill)
    double = await IN_THREAD(others.make_server, server | marks | {"name": "drill-double"})
    await until_gone(others, "compute", f"/servers/{double}")  # found after the copies, and removed by the same worker
    shown = (await user.read("/admin/attention?page_size=100"))["items"]
    assert set(copies) <= {item["resource_id"] for item in shown if item["kind"] == "orphan_volume"}

    disks = [
        {"uuid": server["imageRef"], "source_type": "image", "destination_type": "local", "boot_index": 0},
        {"uuid": copies[kept], "source_type": "volume", "destination_type": "volume", "boot_index": -1},
    ]
    with_copy = server | {"name": "drill-stranger", "block_device_mapping_v2": disks}
    stranger = await IN_THREAD(others.make_server, with_copy)
    await adopt(drill, stranger)
    (attached,) = (await user.read(f"/vms/{stranger}/volumes"))["items"]
    assert attached["volume_id"] not in copies
    assert (await user.read(f"/volumes/{kept}"))["status"] == "AVAILABLE"
    assert await IN_THREAD(others.exists, "block_storage", f"/volumes/{copies[deleted]}")
