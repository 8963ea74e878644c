"""Resizes that wait for confirmation survive the death of every process: their state is in Temporal and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import User, log_in

CONFIRM_WINDOW = 20  # seconds: longer than killing and starting the stack, so that the window ends after it


@pytest.fixture
def separate_stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose settings the test may change."""
    stack = Stack.at(tmp_path)
    stack.start()
    yield stack
    stack.stop()


async def create_resized(user: User, count: int, name: str) -> list[str]:
    """Create VMs with a resize that waits for confirmation; returns their ids."""
    small, large = (await user.flavors())[:2]
    vms = [(await user.create(f"{name}-{number}"))["id"] for number in range(count)]
    for vm_id in vms:
        assert (await user.until(vm_id, "ACTIVE", "ERROR"))["flavor_id"] == small
        await user.act(vm_id, "resize", flavor_id=large)
    return [(await user.until(vm_id, "VERIFY_RESIZE"))["id"] for vm_id in vms]


async def test_twenty_waiting_resizes_survive_the_kill_of_everything(separate_stack: Stack) -> None:
    stack = separate_stack
    async with log_in(stack) as user:
        undecided = await create_resized(user, 15, "undecided")
        stack.stop()
        stack.settings["RESIZE_CONFIRM_WINDOW"] = str(CONFIRM_WINDOW)
        stack.start()
        with_window = await create_resized(user, 5, "with-window")
        statuses = await stack.sql("SELECT status, count(*) AS number FROM vms GROUP BY status")
        stack.kill_everything()
        assert [(row["status"], row["number"]) for row in statuses] == [("VERIFY_RESIZE", 20)]
        stack.start()
        small, large = (await user.flavors())[:2]
        expected = dict.fromkeys([*undecided[:10], *with_window], large) | dict.fromkeys(undecided[10:], small)
        for number, vm_id in enumerate(undecided):
            await user.act(vm_id, "confirm-resize" if number < 10 else "revert-resize")
        for vm_id, flavor in expected.items():
            vm = await user.until(vm_id, "ACTIVE", "ERROR")
            assert (vm["status"], vm["flavor_id"], vm["confirm_by"]) == ("ACTIVE", flavor, None)
        for vm_id in with_window:
            confirm = (await user.read(f"/vms/{vm_id}/operations"))["items"][0]
            assert (confirm["action"], confirm["actor"]) == ("confirm-resize", "@confirm-window")
        assert await differences(stack) == []
