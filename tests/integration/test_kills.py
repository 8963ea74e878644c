"""Processes are killed while a VM is being built: it is built, once."""

import signal

import pytest

from tests.support.stack import Stack, User

PARTS = ("worker", "api", "temporal", "postgres")


async def servers_of(stack: Stack, vm_id: str) -> list[str]:
    """The statuses of the servers that the mock cloud has for a VM."""
    return [row["status"] for row in await stack.sql("SELECT status FROM mock_cloud.servers WHERE vm_id = $1", vm_id)]


async def ports_of(stack: Stack, vm_id: str) -> int:
    """How many ports the mock cloud has for a VM."""
    rows = await stack.sql("SELECT count(*) AS ports FROM mock_cloud.ports WHERE vm_id = $1", vm_id)
    return int(rows[0]["ports"])


@pytest.mark.parametrize("part", PARTS)
async def test_a_build_survives_the_kill_of(stack: Stack, user: User, part: str) -> None:
    vm = await user.create(f"survives-{part}")
    await user.until(vm["id"], task_state="spawning")
    stack.kill(part)
    vm = await user.until(vm["id"], "ACTIVE", "ERROR")
    assert vm["status"] == "ACTIVE", vm["fault"]
    assert await servers_of(stack, vm["id"]) == ["ACTIVE"]
    assert await ports_of(stack, vm["id"]) == 1


async def test_builds_survive_the_kill_of_everything(stack: Stack, user: User) -> None:
    vms = [await user.create(f"survives-all-{number}", **{"Idempotency-Key": f"all-{number}"}) for number in range(3)]
    await user.until(vms[0]["id"], task_state="spawning")
    stack.kill_everything()
    stack.start()
    again = [await user.create(f"survives-all-{number}", **{"Idempotency-Key": f"all-{number}"}) for number in range(3)]
    assert [vm["id"] for vm in again] == [vm["id"] for vm in vms]
    for vm in vms:
        assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
        assert await servers_of(stack, vm["id"]) == ["ACTIVE"]
    assert (await user.request("GET", "/vms")).json()["total"] == 3


async def test_what_is_accepted_while_temporal_is_away_runs_when_it_is_back(stack: Stack, user: User) -> None:
    stack.kill("temporal", signal.SIGSTOP)
    vm = await user.create("while-away")
    readiness = await user.http.get("/health/ready", timeout=10)
    assert readiness.status_code == 503
    assert "temporal" in readiness.text
    assert (await user.request("GET", f"/vms/{vm['id']}")).json()["status"] == "BUILDING"
    stack.kill("temporal", signal.SIGCONT)
    assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"


async def test_while_postgres_is_away_the_answer_is_503_and_recovery_needs_no_restart(stack: Stack, user: User) -> None:
    api = stack.pids("api")
    with stack.unattended():
        stack.kill("postgres")
        refusal = await user.http.get("/vms")
        while refusal.status_code == 200:  # a backend outlives its postmaster by a moment
            refusal = await user.http.get("/vms")
    assert refusal.status_code == 503
    assert refusal.headers["content-type"] == "application/problem+json"
    assert int(refusal.headers["retry-after"]) > 0
    assert (await user.request("GET", "/vms")).status_code == 200
    assert stack.pids("api") == api


async def test_a_delete_during_the_build_leaves_nothing(stack: Stack, user: User) -> None:
    for moment in (None, "spawning"):
        vm = await user.create("never-built")
        if moment:
            await user.until(vm["id"], task_state=moment)
        assert (await user.request("DELETE", f"/vms/{vm['id']}")).status_code == 204
        await user.until(vm["id"], "DELETED")
        assert await servers_of(stack, vm["id"]) == []
        assert await ports_of(stack, vm["id"]) == 0
        operations = (await user.request("GET", f"/vms/{vm['id']}/operations")).json()["items"]
        assert [(o["action"], o["status"]) for o in operations] == [("delete", "SUCCEEDED"), ("create", "SUPERSEDED")]
