"""The power of the mock cloud's servers."""

from datetime import timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy import Interval, Text, Uuid, bindparam, func, null, update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.calls import Effect, MockCalls, check_state, lock_server
from activities.backends.mock.schema import servers
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from domain.data.prepared import Prepared
from domain.rules.cloud import ServerStatus

HARD_REBOOT_FROM: Final = (ServerStatus.ACTIVE, ServerStatus.SHUTOFF, ServerStatus.ERROR)

_CHANGE: Final = Prepared(
    update(servers)
    .where(servers.c.vm_id == bindparam("vm", type_=Uuid))
    .values(
        status=func.coalesce(bindparam("now", type_=Text), servers.c.status),
        content=func.coalesce(bindparam("new_content", type_=Text), servers.c.content),
        next_status=bindparam("target", type_=Text),
        due_at=func.clock_timestamp() + bindparam("delay", type_=Interval),
        fault=null(),
        next_fault=null(),
    )
    .returning(servers.c.vm_id)
)


class MockPower(MockCalls):
    """The power of servers."""

    async def start_server(self, token: Token, vm: Ref) -> None:
        delay = self._settings.mock_start_delay
        change = _power_change(vm, None, ServerStatus.ACTIVE, delay, ServerStatus.SHUTOFF)
        await self._call("start_server", token, vm.id, change, may_be_doomed=True)

    async def stop_server(self, token: Token, vm: Ref) -> None:
        delay = self._settings.mock_stop_delay
        change = _power_change(vm, None, ServerStatus.SHUTOFF, delay, ServerStatus.ACTIVE, ServerStatus.ERROR)
        await self._call("stop_server", token, vm.id, change, may_be_doomed=True)

    async def reboot_server(self, token: Token, vm: Ref, *, hard: bool) -> None:
        # A mock guest cannot hang, so both kinds take the same time.
        delay, states = self._settings.mock_reboot_delay, HARD_REBOOT_FROM if hard else (ServerStatus.ACTIVE,)
        change = _power_change(vm, ServerStatus.REBOOT, ServerStatus.ACTIVE, delay, *states)
        await self._call("reboot_server", token, vm.id, change, may_be_doomed=True)


def _power_change(
    vm: Ref, status: ServerStatus | None, target: ServerStatus, delay: float, *states: ServerStatus
) -> Effect:
    """Return the effect that gives the server the target status after the delay, and until then `status`, if any.

    The server must be in one of the states. Without a `status`, one that has the target already is left as it is.
    """

    async def change(tx: AsyncConnection) -> None:
        server = await lock_server(tx, vm)
        if status is None and server.status == target and server.due_at is None:
            return
        check_state(server, *states)
        # The guest writes to its disk when it boots.
        content = str(uuid4()) if target is ServerStatus.ACTIVE else None
        values = {"target": target, "now": status, "delay": timedelta(seconds=delay), "new_content": content}
        await _CHANGE.fetch_in(tx, {"vm": vm.id, **values})

    return change
