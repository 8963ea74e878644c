"""An upgrade under way: an earlier commit's code serves while the schema changes, works beside this one's, and dies."""

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
from tests.faults.earlier import Work, accepted, active, made_by, operation_of, succeed
from tests.support.stack import PATIENCE, Stack, User, log_in
from tests.support.truth import differences

WINDOW = 20  # seconds; the resize that confirms itself waits while the code that began it is replaced
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
    """The earlier commit's stack, under its own supervisor."""
    stack = Stack.at(tmp_path / "data", **SETTINGS)
    stack.root = earlier.checkout(tmp_path)
    stack.start()
    yield stack
    stack.stop()


async def test_operations_begun_on_an_earlier_commit_end_on_this_one(stack: Stack) -> None:
    async with log_in(stack) as old, contextlib.AsyncExitStack() as beside:
        refusals: list[str] = []
        note_refusals(old.http, refusals)
        vms = (resized(old, "confirmed"), resized(old, "reverted"), active(old, "hurried"))
        work, confirmed, reverted, hurried = await asyncio.gather(Work.prepare(old), *vms)
        await migrate_while_serving(stack, old, work)
        assert refusals == []

        with_window = earlier.api(stack.root, stack, old, RESIZE_CONFIRM_WINDOW=str(WINDOW))
        pid, other = await beside.enter_async_context(with_window)
        await other.act(hurried, "resize", flavor_id=work.flavors[1])
        await other.until(hurried, "VERIFY_RESIZE")

        _, new = await beside.enter_async_context(earlier.api(local.ROOT, stack, old))
        note_refusals(new.http, refusals)
        beside.enter_context(earlier.running(local.ROOT, "worker", stack))
        for _ in range(random.choice([1, 2])):
            await succeed(new, await work.begin(old, new))
        assert (await old.read(f"/vms/{hurried}"))["status"] == "VERIFY_RESIZE"

        begun = await work.begin(old, new)
        await asyncio.sleep(random.uniform(0, 1))
        beside.enter_context(stack.unattended())
        for part in ("api", "worker"):
            stack.kill(part)
        os.kill(pid, signal.SIGKILL)
        await asyncio.gather(decide(new, confirmed, "confirm-resize"), decide(new, reverted, "revert-resize"))
        await succeed(new, begun)
        while work.rounds < 6:  # of these the last one leaves nothing that waits
            await succeed(new, await work.begin(new))
        assert await decided(new, hurried) == "@confirm-window"
        assert refusals == []
        await check_all_ended_once(stack)


def note_refusals(http: httpx.AsyncClient, refusals: list[str]) -> None:
    """Note what the client is answered from now on with a 5xx, though it may then try again."""

    async def note(response: httpx.Response) -> None:
        if response.status_code >= 500:
            await response.aread()
            refusals.append(f"{response.request.method} {response.request.url}: {response.text}")

    http.event_hooks = {"response": [note]}


async def resized(user: User, name: str) -> str:
    """A new VM whose resize waits to be decided."""
    return str((await user.resized(name))["id"])


async def migrate_while_serving(stack: Stack, old: User, work: Work) -> None:
    """Bring the schema up to date while the earlier code carries operations out, is asked for more, and is read."""
    before = await schema(stack)
    begun = await work.begin(old)
    migrating = asyncio.create_task(asyncio.to_thread(migrate, stack))
    made: list[str] = []
    while not migrating.done():
        name = f"meanwhile-{len(made)}"
        created = await accepted(old, "POST", "/vms", name=name, flavor_id=work.flavors[0])
        made.append(made_by(created))
        begun += [operation_of(created), operation_of(await accepted(old, "POST", "/volumes", name="v", size_gb=1))]
        assert (await old.read("/vms"))["total"] >= len(made)
        assert (await old.read("/operations"))["total"] >= len(begun)
        await asyncio.sleep(0.2)
    await migrating
    assert await schema(stack) > before
    await succeed(old, begun)
    deletes = [operation_of(await accepted(old, "DELETE", f"/vms/{vm_id}")) for vm_id in made]
    await succeed(old, [*deletes, *await work.begin(old)])


def migrate(stack: Stack) -> None:
    """Run this commit's migrations on the earlier one's servers."""
    environment = earlier.environment(stack)
    subprocess.run([sys.executable, "-m", "migrations"], cwd=local.ROOT, env=environment, check=True)


async def schema(stack: Stack) -> str:
    """The number of the last migration."""
    return str((await stack.sql("SELECT version_num FROM alembic_version"))[0]["version_num"])


async def decide(user: User, vm_id: str, word: str) -> None:
    """Decide a resize that the earlier code began."""
    await user.act(vm_id, word)
    assert not (await decided(user, vm_id)).startswith("@")


async def decided(user: User, vm_id: str) -> str:
    """Who decided the VM's resize, once that is carried out by the workflow that has waited for it."""
    await user.until(vm_id, "ACTIVE", "ERROR")
    decision, resize = (await user.read(f"/vms/{vm_id}/operations"))["items"][:2]
    assert (decision["status"], resize["status"]) == ("SUCCEEDED", "SUCCEEDED")
    assert (resize["action"], decision["workflow_id"]) == ("resize", resize["workflow_id"])
    return str(decision["actor"])


async def check_all_ended_once(stack: Stack) -> None:
    """Every operation has ended well, in the one workflow that was started for it, and has left what it should."""
    operations = await stack.sql("SELECT status, epoch, actor, workflow_id FROM operations")
    assert {(row["status"], row["epoch"]) for row in operations} == {("SUCCEEDED", 0)}
    assert "@reconcile" not in {row["actor"] for row in operations}
    client = await stack.temporal()
    workflow_ids = {row["workflow_id"] for row in operations}
    async with asyncio.timeout(PATIENCE):
        for workflow_id in workflow_ids:
            await client.get_workflow_handle(workflow_id).result()
    assert (await client.count_workflows()).count == len(workflow_ids)
    assert await differences(stack) == []
