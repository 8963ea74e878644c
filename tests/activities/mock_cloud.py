"""Helpers for tests of the mock cloud itself: calls with new tokens, and servers, images and volumes to call on."""

from collections.abc import Awaitable, Callable, Coroutine
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref, Volume
from domain.rules.cloud import ServerStatus
from tests.activities.cloud import cloud_contents, complete_changes, new_ports, server_spec

Call = Callable[[MockBackend, Token, UUID], Coroutine[object, object, object]]
PORTS_PER_SERVER = 2
POWER_CHANGES: dict[str, tuple[Call, ServerStatus]] = {
    "start": (lambda cloud, token, vm_id: cloud.start_server(token, Ref(vm_id)), ServerStatus.ACTIVE),
    "stop": (lambda cloud, token, vm_id: cloud.stop_server(token, Ref(vm_id)), ServerStatus.SHUTOFF),
    "reboot": (lambda cloud, token, vm_id: cloud.reboot_server(token, Ref(vm_id), hard=False), ServerStatus.ACTIVE),
    "hard reboot": (lambda cloud, token, vm_id: cloud.reboot_server(token, Ref(vm_id), hard=True), ServerStatus.ACTIVE),
}
each_power_change = pytest.mark.parametrize("verb", POWER_CHANGES)
on_or_off = pytest.mark.parametrize("previous", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])


def token(step: str = "step") -> Token:
    """Return a token of a new operation."""
    return Token(uuid4(), step)


async def refused(call: Awaitable[object], code: str, *, retryable: bool = False) -> None:
    """Check that the call fails with this error."""
    with pytest.raises(BackendError) as refusal:
        await call
    assert (refusal.value.code, refusal.value.retryable) == (code, retryable)


async def refused_without_effect(engine: AsyncEngine, call: Awaitable[object], code: str) -> None:
    """Check that the call is refused, for good unless the server is busy, and changes nothing in the cloud."""
    before = await cloud_contents(engine)
    await refused(call, code, retryable=code == "busy")
    assert await cloud_contents(engine) == before


async def make_due(engine: AsyncEngine, vm_id: UUID) -> None:
    """Let the change of the VM's server be due; the next call that reads the server completes it."""
    async with engine.begin() as tx:
        await tx.execute(update(servers).where(servers.c.vm_id == vm_id).values(due_at=func.now()))


async def status_of(cloud: MockBackend, vm_id: UUID) -> ServerStatus:
    """Return the status of the VM's server."""
    server = (await cloud.list_servers([Ref(vm_id)])).get(vm_id)
    return server.status if server else ServerStatus.GONE


async def build_server(cloud: MockBackend, engine: AsyncEngine) -> UUID:
    """Add a small server that is ACTIVE, with ports, and return its VM's id."""
    vm_id = uuid4()
    await cloud.create_ports(token(), Ref(vm_id), new_ports(PORTS_PER_SERVER))
    await cloud.create_server(token(), server_spec(vm_id))
    assert await complete_changes(engine, cloud, vm_id) is ServerStatus.ACTIVE
    return vm_id


async def add_idle_server(
    cloud: MockBackend, engine: AsyncEngine, previous: ServerStatus = ServerStatus.ACTIVE
) -> UUID:
    """Add a small server that is ACTIVE or SHUTOFF, and return its VM's id."""
    vm_id = await build_server(cloud, engine)
    if previous is ServerStatus.SHUTOFF:
        await cloud.stop_server(token(), Ref(vm_id))
    assert await complete_changes(engine, cloud, vm_id) is previous
    return vm_id


async def begin_power_change(cloud: MockBackend, engine: AsyncEngine, verb: str) -> UUID:
    """Add a server on which the power change has begun, and return its VM's id."""
    vm_id = await add_idle_server(cloud, engine, power_before(verb))
    call, _ = POWER_CHANGES[verb]
    await call(cloud, token(), vm_id)
    return vm_id


def power_before(verb: str) -> ServerStatus:
    """Return the status of a server that the power change is for."""
    return ServerStatus.SHUTOFF if verb == "start" else ServerStatus.ACTIVE


async def add_image(cloud: MockBackend, engine: AsyncEngine, vm_id: UUID) -> UUID:
    """Add a saved image of the VM's server, and return its id."""
    image_id = uuid4()
    await cloud.create_server_image(token(), Ref(vm_id), image_id, "before")
    await complete_changes(engine, cloud, vm_id)
    return image_id


async def add_volume(cloud: MockBackend) -> UUID:
    """Add a volume that is not attached, and return its id."""
    id = uuid4()
    await cloud.create_volume(token(), id, "data", 10)
    return id


async def list_volume(cloud: MockBackend, volume_id: UUID) -> Volume | None:
    """Return the volume as the cloud lists it."""
    return (await cloud.list_volumes([Ref(volume_id)])).get(volume_id)
