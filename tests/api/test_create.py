"""POST /vms: what is recorded, and what the answer says."""

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
    *("id", "name", "status", "task_state", "flavor_id", "image_id", "labels", "fault", "allowed_actions"),
    *("operation_id", "confirm_by", "launched_at", "created_at", "updated_at"),
}


async def test_a_new_vm_is_building_and_says_where_to_look(ada: Person) -> None:
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


async def test_its_operation_holds_all_that_the_workflow_needs(ada: Person, engine: AsyncEngine) -> None:
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
    """The networks that the VM was asked for with."""
    [operation] = await operations_of(engine, vm["id"])
    networks: list[str] = operation.input["network_ids"]
    return networks


async def test_networks_are_the_default_none_or_the_given_in_their_order(ada: Person, engine: AsyncEngine) -> None:
    given = [str(NETWORK_IDS[name]) for name in ("edge", "backend", "private")]
    assert await networks_of(engine, await ada.create()) == [str(NETWORK_IDS["private"])]
    assert await networks_of(engine, await ada.create(network_ids=None)) == [str(NETWORK_IDS["private"])]
    assert await networks_of(engine, await ada.create(network_ids=[])) == []
    assert await networks_of(engine, await ada.create(network_ids=given)) == given


async def test_the_image_is_the_default_or_the_given(ada: Person) -> None:
    debian = str(IMAGE_IDS["debian-12"])
    assert (await ada.create())["image_id"] == str(IMAGE_IDS["cirros-0.6.3"])
    assert (await ada.create(image_id=None))["image_id"] == str(IMAGE_IDS["cirros-0.6.3"])
    assert (await ada.create(image_id=debian))["image_id"] == debian


async def test_without_a_default_an_image_has_to_be_named_but_no_network(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(Image).values(is_default=False))
        await tx.execute(delete(Network))
    answer = await ada.http.post("/vms", json={"name": "x", "flavor_id": FLAVOR})
    assert pointers(answer.json()) == {"#/image_id"}
    vm = await ada.create(image_id=str(IMAGE_IDS["debian-12"]))
    assert await networks_of(engine, vm) == []


async def test_a_refused_create_leaves_nothing(ada: Person, engine: AsyncEngine) -> None:
    answer = await ada.http.post("/vms", json={"name": "x", "flavor_id": str(uuid4())})
    assert answer.status_code == 422
    assert (await count(engine, VM), await count(engine, Operation)) == (0, 0)


async def test_names_need_not_be_unique(ada: Person, bob: Person) -> None:
    ids = {(await who.create("same"))["id"] for who in (ada, ada, bob)}
    assert len(ids) == 3
    assert all(UUID(id).version == 4 for id in ids)


async def test_a_user_that_is_gone_makes_nothing(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM users")
    answer = await ada.http.post("/vms", json={"name": "x", "flavor_id": FLAVOR})
    assert answer.status_code == 401, answer.text
    assert await count(engine, VM) == 0
