"""The power of the mock cloud's servers."""

from typing import Final
from uuid import uuid4

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.calls import Effect, MockCalls, check_state, clock_in, lock_server
from activities.backends.mock.schema import servers
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from domain.rules.cloud import ServerStatus

HARD_REBOOT_FROM: Final = (ServerStatus.ACTIVE, ServerStatus.SHUTOFF, ServerStatus.ERROR)


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
        values = {"next_status": target, "due_at": clock_in(delay), "fault": None, "next_fault": None}
        if target is ServerStatus.ACTIVE:
            values["content"] = str(uuid4())  # the guest writes to its disk when it boots
        if status is not None:
            values["status"] = status
        server = await lock_server(tx, vm)
        if status is None and server.status == target and server.due_at is None:
            return
        check_state(server, *states)
        await tx.execute(update(servers).where(servers.c.vm_id == vm.id).values(values))

    return change
