"""POST /vms: the answer and the recorded operation."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Image, Network, Operation
from domain.rules.states import Action, OperationStatus, Status
from tests.api.conftest import FLAVOR, Person, count, operations_of, pointers
from tests.support.rows import IMAGE_IDS, NETWORK_IDS

FIELDS = {
    *(
        "id",
        "project_id",
        "name",
        "status",
        "task_state",
        "flavor_id",
        "image_id",
        "labels",
        "fault",
        "allowed_actions",
    ),
    *("operation_id", "confirm_by", "launched_at", "availability_zone", "security_groups", "created_at", "updated_at"),
    *("snapshot_id", "boot_volume_id", "flavor", "previous_flavor_id", "addresses", "volumes"),
}


async def test_the_answer_shows_the_vm_and_links_to_it_and_its_operation(ada: Person) -> None:
    body = {"name": "web-1", "flavor_id": FLAVOR, "labels": {"env": "test"}}
    answer = await ada.http.post("/vms", json=body)
    vm = answer.json()
    assert answer.status_code == 202
    assert set(vm) == FIELDS
    assert vm | body == vm
    assert (vm["status"], vm["task_state"], vm["allowed_actions"]) == ("BUILDING", "scheduling", ["delete"])
    assert (vm["fault"], vm["launched_at"], vm["confirm_by"]) == (None, None, None)
    assert vm["created_at"] == vm["updated_at"]
    assert datetime.fromisoformat(vm["created_at"]).utcoffset() is not None
    assert vm["created_at"].endswith("Z")
    assert answer.headers["Location"] == f"/api/v1/vms/{vm['id']}"
    assert answer.headers["Operation-Location"] == f"/api/v1/operations/{vm['operation_id']}"
    assert answer.headers["Retry-After"] == "1"
    assert (await ada.http.get(f"http://api{answer.headers['Location']}")).json() == vm


async def test_the_operation_records_everything_that_the_workflow_needs(ada: Person, engine: AsyncEngine) -> None:
    answer = await ada.http.post(
        "/vms", json={"name": "web-1", "flavor_id": FLAVOR}, headers={"X-Request-Id": "the-request"}
    )
    vm = answer.json()
    [operation] = await operations_of(engine, vm["id"])
    assert str(operation.id) == vm["operation_id"]
    assert (operation.action, operation.status) == (Action.CREATE, OperationStatus.QUEUED)
    assert (operation.owner_id, operation.actor, operation.request_id) == (ada.user.id, "ada", "the-request")
    assert (operation.resource_type, str(operation.resource_id)) == ("vm", vm["id"])
    assert (operation.previous_status, operation.epoch) == (Status.BUILDING, 0)
    assert operation.workflow_id == f"create-{vm['id']}-{operation.id}"
    assert operation.input == {
        "name": "web-1",
        "flavor_id": FLAVOR,
        "image_id": str(IMAGE_IDS["cirros-0.6.3"]),
        "network_ids": [str(NETWORK_IDS["private"])],
    }


async def networks_of(engine: AsyncEngine, vm: dict[str, Any]) -> list[str]:
    """The ids of the networks in the VM's create operation."""
    [operation] = await operations_of(engine, vm["id"])
    network_ids: list[str] = operation.input["network_ids"]
    return network_ids


async def test_a_vm_gets_the_default_network_or_the_requested_ones_in_their_order(
    ada: Person, engine: AsyncEngine
) -> None:
    requested = [str(NETWORK_IDS[name]) for name in ("edge", "backend", "private")]
    assert await networks_of(engine, await ada.create()) == [str(NETWORK_IDS["private"])]
    assert await networks_of(engine, await ada.create(network_ids=None)) == [str(NETWORK_IDS["private"])]
    assert await networks_of(engine, await ada.create(network_ids=[])) == []
    assert await networks_of(engine, await ada.create(network_ids=requested)) == requested


async def test_a_vm_gets_the_default_image_or_the_requested_one(ada: Person) -> None:
    debian = str(IMAGE_IDS["debian-12"])
    assert (await ada.create())["image_id"] == str(IMAGE_IDS["cirros-0.6.3"])
    assert (await ada.create(image_id=None))["image_id"] == str(IMAGE_IDS["cirros-0.6.3"])
    assert (await ada.create(image_id=debian))["image_id"] == debian


async def test_without_defaults_an_image_is_required_and_a_network_is_not(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(Image).values(is_default=False))
        await tx.execute(delete(Network))
    answer = await ada.http.post("/vms", json={"name": "x", "flavor_id": FLAVOR})
    assert pointers(answer.json()) == {"#/image_id"}
    vm = await ada.create(image_id=str(IMAGE_IDS["debian-12"]))
    assert await networks_of(engine, vm) == []


async def test_a_refused_create_records_nothing(ada: Person, engine: AsyncEngine) -> None:
    answer = await ada.http.post("/vms", json={"name": "x", "flavor_id": str(uuid4())})
    assert answer.status_code == 422
    assert (await count(engine, VM), await count(engine, Operation)) == (0, 0)


async def test_names_of_vms_need_not_be_unique(ada: Person, bob: Person) -> None:
    ids = {(await user.create("same"))["id"] for user in (ada, ada, bob)}
    assert len(ids) == 3
    assert all(UUID(id).version == 4 for id in ids)


async def test_a_user_whose_account_was_deleted_cannot_create_a_vm(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM users")
    answer = await ada.http.post("/vms", json={"name": "x", "flavor_id": FLAVOR})
    assert answer.status_code == 401, answer.text
    assert await count(engine, VM) == 0
