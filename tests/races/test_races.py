"""Many concurrent requests to one resource: one is accepted, and the others get a correct refusal."""

import asyncio
from collections import Counter

from tests.integration.mock_cloud import ports_of, servers_of
from tests.support.stack import Stack
from tests.support.users import User


async def test_one_of_twenty_concurrent_stops_is_accepted(user: User) -> None:
    vm = await user.create("stopped-once")
    await user.until(vm["id"], "ACTIVE")
    stops = [user.http.post(f"/vms/{vm['id']}/actions/stop") for _ in range(20)]
    answers = await asyncio.gather(*stops)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 19}
    for refusal in (answer.json() for answer in answers if answer.status_code == 409):
        assert refusal["code"] == "invalid_transition"
        if refusal["task_state"]:
            assert (refusal["current_status"], refusal["task_state"]) == ("ACTIVE", "powering_off")
            assert refusal["allowed_actions"] == ["delete"]
        else:  # on a busy machine the last requests come after the end of the stop
            assert refusal["current_status"] == "SHUTOFF"
    assert (await user.until(vm["id"]))["status"] == "SHUTOFF"
    operations = (await user.request("GET", f"/vms/{vm['id']}/operations")).json()["items"]
    assert Counter(operation["action"] for operation in operations) == {"stop": 1, "create": 1}


async def test_twenty_concurrent_posts_with_one_idempotency_key_create_one_vm(stack: Stack, user: User) -> None:
    key = {"Idempotency-Key": "only-one"}
    flavor = (await user.request("GET", "/flavors")).json()["items"][0]["id"]
    body = {"name": "only-one", "flavor_id": flavor}
    answers = await asyncio.gather(*[user.http.post("/vms", json=body, headers=key) for _ in range(20)])
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"idempotency_key_in_flight"}
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert len(ids) == 1
    vm_id = ids.pop()
    await user.until(vm_id, "ACTIVE")
    replay = await user.http.post("/vms", json=body, headers=key)
    assert (replay.status_code, replay.json()["id"], replay.json()["status"]) == (202, vm_id, "BUILDING")
    assert (await user.request("GET", "/vms")).json()["total"] == 1
    assert await servers_of(stack, vm_id) == ["ACTIVE"]


async def test_vms_are_deleted_after_concurrent_actions_and_deletes(stack: Stack, user: User) -> None:
    vms = [await user.create(f"mixed-{number}") for number in range(4)]
    for vm in vms:
        await user.until(vm["id"], "ACTIVE")
    actions = ("stop", "reboot", "start", "stop", "reboot")
    calls = [user.http.post(f"/vms/{vm['id']}/actions/{action}") for vm in vms for action in actions]
    assert {answer.status_code for answer in await asyncio.gather(*calls)} <= {202, 409}
    deletes = await asyncio.gather(*[user.http.delete(f"/vms/{vm['id']}") for vm in vms for _ in range(5)])
    assert {answer.status_code for answer in deletes} == {204}
    for vm in vms:
        assert (await user.until(vm["id"], "DELETED", "ERROR"))["status"] == "DELETED"
        assert (await servers_of(stack, vm["id"]), await ports_of(stack, vm["id"])) == ([], 0)
        operations = (await user.request("GET", f"/vms/{vm['id']}/operations")).json()["items"]
        assert Counter(operation["action"] for operation in operations)["delete"] == 1
        assert {operation["status"] for operation in operations} <= {"SUCCEEDED", "SUPERSEDED"}
