"""The two kinds of reboot reach the cloud as what they are."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.compute import ComputeActivities
from domain.rules.states import Action, TaskState
from tests.activities.conftest import Run
from tests.support.rows import add_held_vm


async def test_a_soft_reboot_asks_the_guest_and_a_hard_one_does_not(
    engine: AsyncEngine, backend: MockBackend, compute: ComputeActivities, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def reboot(*_: Any, hard: bool) -> None:
        asked.append(hard)

    monkeypatch.setattr(backend, "reboot_server", reboot)
    await run(compute.reboot_server, await add_held_vm(engine, Action.REBOOT_SOFT, step=TaskState.REBOOTING))
    await run(compute.reboot_server_hard, await add_held_vm(engine, Action.REBOOT_HARD, step=TaskState.REBOOTING_HARD))
    assert asked == [False, True]
