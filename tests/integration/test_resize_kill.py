"""Resizes wait in Temporal and PostgreSQL alone: whatever runs them may die."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, User, log_in
from tests.support.truth import differences

WINDOW = 20  # seconds; the resizes that confirm themselves wait through the kill


@pytest.fixture
def stack_of_its_own(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose settings may be changed."""
    stack = Stack.at(tmp_path)
    stack.start()
    yield stack
    stack.stop()


async def resized(user: User, count: int, name: str) -> list[str]:
    """The ids of so many VMs whose resizes wait."""
    small, large = (await user.flavors())[:2]
    vms = [(await user.create(f"{name}-{number}"))["id"] for number in range(count)]
    for vm_id in vms:
        assert (await user.until(vm_id, "ACTIVE", "ERROR"))["flavor_id"] == small
        await user.act(vm_id, "resize", flavor_id=large)
    return [(await user.until(vm_id, "VERIFY_RESIZE"))["id"] for vm_id in vms]


async def test_twenty_waiting_resizes_survive_the_kill_of_everything(stack_of_its_own: Stack) -> None:
    stack = stack_of_its_own
    async with log_in(stack) as user:
        patient = await resized(user, 15, "patient")
        stack.stop()
        stack.settings["RESIZE_CONFIRM_WINDOW"] = str(WINDOW)
        stack.start()
        hurried = await resized(user, 5, "hurried")
        statuses = await stack.sql("SELECT status, count(*) AS number FROM vms GROUP BY status")
        stack.kill_everything()
        assert [(row["status"], row["number"]) for row in statuses] == [("VERIFY_RESIZE", 20)]
        stack.start()
        small, large = (await user.flavors())[:2]
        expected = dict.fromkeys([*patient[:10], *hurried], large) | dict.fromkeys(patient[10:], small)
        for number, vm_id in enumerate(patient):
            await user.act(vm_id, "confirm-resize" if number < 10 else "revert-resize")
        for vm_id, flavor in expected.items():
            vm = await user.until(vm_id, "ACTIVE", "ERROR")
            assert (vm["status"], vm["flavor_id"], vm["confirm_by"]) == ("ACTIVE", flavor, None)
        for vm_id in hurried:
            confirm = (await user.read(f"/vms/{vm_id}/operations"))["items"][0]
            assert (confirm["action"], confirm["actor"]) == ("confirm-resize", "@confirm-window")
        assert await differences(stack) == []
