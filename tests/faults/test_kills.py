"""Processes are killed during operations, which nevertheless end as they should."""

import signal
from typing import Any

import pytest

from tests.integration.mock_cloud import ports_of, servers_of
from tests.support.stack import Stack
from tests.support.users import User
from tests.support.waiting import poll

PARTS = ("worker", "api", "temporal", "postgres")


@pytest.mark.parametrize("part", PARTS)
async def test_a_vm_is_built_once_although_a_process_is_killed(stack: Stack, user: User, part: str) -> None:
    vm = await user.create(f"survives-{part}")
    await user.until(vm["id"], task_state="spawning")
    stack.kill(part)
    vm = await user.until(vm["id"], "ACTIVE", "ERROR")
    assert vm["status"] == "ACTIVE", vm["fault"]
    assert await servers_of(stack, vm["id"]) == ["ACTIVE"]
    assert await ports_of(stack, vm["id"]) == 1


async def create_three(user: User) -> list[dict[str, Any]]:
    """Create three VMs; the same three if it is called again."""
    return [await user.create(f"vm-{number}", **{"Idempotency-Key": f"key-{number}"}) for number in range(3)]


async def test_vms_are_built_once_although_all_processes_are_killed(stack: Stack, user: User) -> None:
    vms = await create_three(user)
    await user.until(vms[0]["id"], task_state="spawning")
    stack.kill_everything()
    stack.start()
    again = await create_three(user)
    assert [vm["id"] for vm in again] == [vm["id"] for vm in vms]
    for vm in vms:
        assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
        assert await servers_of(stack, vm["id"]) == ["ACTIVE"]
    assert (await user.request("GET", "/vms")).json()["total"] == 3


async def test_a_request_accepted_while_temporal_is_down_runs_when_it_is_back(stack: Stack, user: User) -> None:
    stack.kill("temporal", signal.SIGSTOP)
    vm = await user.create("while-away")
    readiness = await user.http.get("/health/ready", timeout=10)
    assert readiness.status_code == 503
    assert "temporal" in readiness.text
    assert (await user.request("GET", f"/vms/{vm['id']}")).json()["status"] == "BUILDING"
    stack.kill("temporal", signal.SIGCONT)
    assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"


async def test_without_postgres_the_answer_is_503_and_recovery_needs_no_restart(stack: Stack, user: User) -> None:
    api_pids = stack.pids("api")
    with stack.without_restarts():
        stack.kill("postgres")
        # A backend outlives its killed postmaster for a moment and still answers.
        refusal = await poll(lambda: user.http.get("/vms"), lambda answer: answer.status_code != 200, interval=0)
    assert refusal.status_code == 503
    assert refusal.headers["content-type"] == "application/problem+json"
    assert int(refusal.headers["retry-after"]) > 0
    assert (await user.request("GET", "/vms")).status_code == 200
    assert stack.pids("api") == api_pids


async def test_a_delete_during_the_build_leaves_nothing(stack: Stack, user: User) -> None:
    for task_state in (None, "spawning"):
        vm = await user.create("never-built")
        if task_state:
            await user.until(vm["id"], task_state=task_state)
        assert (await user.request("DELETE", f"/vms/{vm['id']}")).status_code == 204
        await user.until(vm["id"], "DELETED")
        assert await servers_of(stack, vm["id"]) == []
        assert await ports_of(stack, vm["id"]) == 0
        operations = (await user.request("GET", f"/vms/{vm['id']}/operations")).json()["items"]
        assert [(operation["action"], operation["status"]) for operation in operations] == [
            ("delete", "SUCCEEDED"),
            ("create", "SUPERSEDED"),
        ]
