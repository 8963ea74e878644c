"""An upgrade: an earlier commit's code runs during the migration and beside this commit's code, and then dies."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import local
from tests.faults import earlier
from tests.faults.earlier import Work, accepted, created_id, succeed
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import User, log_in, operation_path
from tests.support.waiting import DEADLINE

CONFIRM_WINDOW = 20  # seconds: longer than replacing the code that started the resize
SETTINGS = {
    "MOCK_BUILD_DELAY": "1.5",
    "MOCK_START_DELAY": "1",
    "MOCK_STOP_DELAY": "1",
    "MOCK_DELETE_DELAY": "1",
    "MOCK_RESIZE_DELAY": "1.5",
    "MOCK_SNAPSHOT_DELAY": "1",
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of the earlier commit, under its own supervisor."""
    stack = Stack.at(tmp_path / "data", **SETTINGS)
    stack.root = earlier.checkout(tmp_path)
    stack.start()
    yield stack
    stack.stop()


async def test_operations_started_by_an_earlier_commit_end_on_this_one(stack: Stack) -> None:
    async with log_in(stack) as old, contextlib.AsyncExitStack() as processes:
        old.wait = 0
        refusals: list[str] = []
        note_refusals(old.http, refusals)
        vms = (create_resized(old, "confirmed"), create_resized(old, "reverted"), old.create_active("auto-confirmed"))
        work, confirmed, reverted, auto_confirmed = await asyncio.gather(Work.prepare(old), *vms)
        await migrate_while_serving(stack, old, work)
        assert refusals == []

        with_window = earlier.api(stack.root, stack, old, RESIZE_CONFIRM_WINDOW=str(CONFIRM_WINDOW))
        pid, other = await processes.enter_async_context(with_window)
        await other.act(auto_confirmed, "resize", flavor_id=work.flavors[1])
        await other.until(auto_confirmed, "VERIFY_RESIZE")

        _, new = await processes.enter_async_context(earlier.api(local.ROOT, stack, old))
        note_refusals(new.http, refusals)
        processes.enter_context(earlier.running(local.ROOT, "worker", stack))
        for _ in range(random.choice([1, 2])):
            await succeed(new, await work.begin(old, new))
        assert (await old.read(f"/vms/{auto_confirmed}"))["status"] == "VERIFY_RESIZE"

        started = await work.begin(old, new)
        await asyncio.sleep(random.uniform(0, 1))
        processes.enter_context(stack.without_restarts())
        for part in ("api", "worker"):
            stack.kill(part)
        os.kill(pid, signal.SIGKILL)
        await asyncio.gather(decide(new, confirmed, "confirm-resize"), decide(new, reverted, "revert-resize"))
        await succeed(new, started)
        while work.rounds < 6:  # an even number, so that no resize is left waiting for confirmation
            await succeed(new, await work.begin(new))
        assert await decided_by(new, auto_confirmed) == "@confirm-window"
        assert refusals == []
        await check_ends(stack)


def note_refusals(http: httpx.AsyncClient, refusals: list[str]) -> None:
    """Note all 5xx answers from now on; the user repeats such a request."""

    async def note(response: httpx.Response) -> None:
        if response.status_code >= 500:
            await response.aread()
            refusals.append(f"{response.request.method} {response.request.url}: {response.text}")

    http.event_hooks = {"response": [note]}


async def create_resized(user: User, name: str) -> str:
    """Create a VM with a resize that waits for confirmation; returns its id."""
    return str((await user.create_resized(name))["id"])


async def migrate_while_serving(stack: Stack, old: User, work: Work) -> None:
    """Migrate the schema while the earlier code runs operations, accepts new ones and answers reads."""
    version_before = await schema_version(stack)
    operations = await work.begin(old)
    migrating = asyncio.create_task(asyncio.to_thread(migrate, stack))
    created: list[str] = []
    while not migrating.done():
        name = f"meanwhile-{len(created)}"
        vm = await accepted(old, "POST", "/vms", name=name, flavor_id=work.flavors[0])
        volume = await accepted(old, "POST", "/volumes", name="v", size_gb=1)
        created.append(created_id(vm))
        operations += [operation_path(vm), operation_path(volume)]
        assert (await old.read("/vms"))["total"] >= len(created)
        assert (await old.read("/operations"))["total"] >= len(operations)
        await asyncio.sleep(0.2)
    await migrating
    assert await schema_version(stack) > version_before
    await succeed(old, operations)
    deletes = [operation_path(await accepted(old, "DELETE", f"/vms/{vm_id}")) for vm_id in created]
    await succeed(old, [*deletes, *await work.begin(old)])


def migrate(stack: Stack) -> None:
    """Run this commit's migrations on the stack's servers."""
    environment = earlier.environment(stack)
    subprocess.run([sys.executable, "-m", "migrations"], cwd=local.ROOT, env=environment, check=True)


async def schema_version(stack: Stack) -> str:
    """The number of the newest applied migration."""
    return str((await stack.sql("SELECT version_num FROM alembic_version"))[0]["version_num"])


async def decide(user: User, vm_id: str, action: str) -> None:
    """Confirm or revert a resize that the earlier code started."""
    await user.act(vm_id, action)
    assert not (await decided_by(user, vm_id)).startswith("@")


async def decided_by(user: User, vm_id: str) -> str:
    """Wait until the workflow of the VM's resize has carried out the decision; returns the actor of the decision."""
    await user.until(vm_id, "ACTIVE", "ERROR")
    decision, resize = (await user.read(f"/vms/{vm_id}/operations"))["items"][:2]
    assert (decision["status"], resize["status"]) == ("SUCCEEDED", "SUCCEEDED")
    assert (resize["action"], decision["workflow_id"]) == ("resize", resize["workflow_id"])
    return str(decision["actor"])


async def check_ends(stack: Stack) -> None:
    """Check that every operation succeeded in the only workflow that was started for it, and that the cloud agrees."""
    operations = await stack.sql("SELECT status, epoch, actor, workflow_id FROM operations")
    assert {(row["status"], row["epoch"]) for row in operations} == {("SUCCEEDED", 0)}
    assert "@reconcile" not in {row["actor"] for row in operations}
    client = await stack.temporal()
    workflow_ids = {row["workflow_id"] for row in operations}
    async with asyncio.timeout(DEADLINE):
        for workflow_id in workflow_ids:
            await client.get_workflow_handle(workflow_id).result()
    assert (await client.count_workflows()).count == len(workflow_ids)
    assert await differences(stack) == []
