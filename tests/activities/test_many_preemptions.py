"""A delete that ends many operations does it a few at once."""

import asyncio
from typing import cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.mock.backend import MockBackend
from activities.preemption import AT_ONCE, PreemptionActivities
from domain.rules.states import Action
from tests.activities.conftest import Run
from tests.support.rows import add_operation, add_user, add_vm, claim, message


async def test_many_operations_are_ended_a_few_at_once(
    engine: AsyncEngine, backend: MockBackend, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions accepted thousands for one VM. All at once they waited for connections until it was too late."""
    now, most, calls = 0, 0, 0

    async def call(*_: object) -> None:
        nonlocal now, most, calls
        now, calls = now + 1, calls + 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    preemption = PreemptionActivities(engine, backend, cast("Client", None))
    for owner, name in ((backend, "revoke"), (preemption, "_cancel"), (preemption, "_is_open")):
        monkeypatch.setattr(owner, name, call)
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        for number in range(100):
            await add_operation(tx, vm, Action.ATTACH_VOLUME, workflow_id=f"never-started-{number}")
        delete = message(await claim(tx, vm.id, Action.DELETE))
    assert await run(preemption.preempt_operations, delete) == []
    assert calls == 300
    assert 1 < most <= AT_ONCE
