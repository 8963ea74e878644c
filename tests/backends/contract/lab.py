"""A cloud under test, and what the tests ask of it: new servers and volumes, and what becomes of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar
from uuid import UUID, uuid4

import pytest

from activities.backends.protocol import BackendError, ComputeBackend, Token
from activities.backends.resources import Image, PortSpec, Ref, Server, ServerSpec, Volume
from domain.rules.cloud import ImageState, ServerStatus, VolumeState
from domain.rules.resources import Kind

T = TypeVar("T")
DEADLINE: Final = 180.0  # seconds; a real cloud shares the machine with the tests
NAME: Final = "contract"
TOO_MUCH_RAM: Final = 1 << 28  # MiB


@dataclass
class Lab:
    """The cloud, what servers are made of there, and what the tests have made, which is removed in the end.

    The two flavors differ in size. Addresses of the network may be chosen. `group` is the id of a security group.
    """

    backend: ComputeBackend
    small: ServerSpec
    large: ServerSpec
    largest: ServerSpec
    network_id: UUID
    addresses: list[str]
    group: str
    zone: str
    pause: float
    _servers: list[Ref] = field(default_factory=list)
    _volumes: list[Ref] = field(default_factory=list)
    _images: list[Ref] = field(default_factory=list)

    @property
    def giant(self) -> ServerSpec:
        """The spec of a server that no host has room for; skips the test on a cloud without such a flavor."""
        if self.largest.ram_mb < TOO_MUCH_RAM:
            pytest.skip("every flavor of this cloud may find a host")
        return self.largest

    def spec(self, spec: ServerSpec, vm: Ref) -> ServerSpec:
        """Return the spec for another VM."""
        return replace(spec, vm=vm)

    async def begin_server(self, spec: ServerSpec, token: Token | None = None) -> tuple[Ref, Token]:
        """Begin to build a server with one port, and return it with the token of the call."""
        token, vm = token or new_token(), Ref(uuid4())
        self._servers.append(vm)
        id = await self.backend.create_server(token, self.spec(spec, vm), [self.port()])
        return Ref(vm.id, id), token

    async def new_server(self, spec: ServerSpec | None = None) -> Ref:
        """Build a server that is ACTIVE, a small one unless a spec is given."""
        vm, token = await self.begin_server(spec or self.small)
        assert (await self.settle(vm, token)).status is ServerStatus.ACTIVE
        return vm

    async def failed_server(self, spec: ServerSpec) -> Ref:
        """Begin to build a server whose build fails, and return it when it has."""
        vm, _ = await self.begin_server(spec)

        async def has_failed() -> bool:
            server = await self.server(vm)
            return server is not None and server.status is ServerStatus.ERROR and not server.is_busy

        await self.until(has_failed)
        return vm

    def port(self, ip_address: str | None = None) -> PortSpec:
        """Return the wish for a port."""
        return PortSpec(Ref(uuid4()), self.network_id, ip_address)

    async def settle(self, vm: Ref, token: Token) -> Server:
        """Wait until the cloud is done with the server, and return it; BackendError if the call has failed."""

        async def look() -> Server | None:
            server = await self.server(vm)
            assert server is not None
            is_over = not server.is_busy and await self.backend.is_over(token.operation_id, vm)
            return await self.server(vm) if is_over else None

        return await self.until(look)

    async def power(self, vm: Ref, call: Callable[[Token, Ref], Awaitable[None]]) -> ServerStatus:
        """Carry out a change of the server's power, and return its status after it."""
        token = new_token()
        await call(token, vm)
        return (await self.settle(vm, token)).status

    async def soft_reboot(self, token: Token, vm: Ref) -> None:
        """Begin to ask the guest to boot."""
        await self.backend.reboot_server(token, vm, hard=False)

    async def hard_reboot(self, token: Token, vm: Ref) -> None:
        """Begin to switch the server off and on."""
        await self.backend.reboot_server(token, vm, hard=True)

    async def resize(self, vm: Ref, spec: ServerSpec) -> Server:
        """Resize the server, and return it after that."""
        token = new_token()
        await self.backend.resize_server(token, self.spec(spec, vm))
        return await self.settle(vm, token)

    async def server(self, vm: Ref) -> Server | None:
        """Return the server as it is now."""
        return (await self.backend.list_servers([vm])).get(vm.id)

    async def delete(self, vm: Ref) -> None:
        """Delete the server, and wait until it is gone."""
        await self.backend.delete_server(new_token(), vm)

        async def is_gone() -> bool:
            return await self.server(vm) is None

        await self.until(is_gone)

    async def new_volume(self, size_gb: int = 1, image: Ref | None = None) -> Ref:
        """Create a volume that is available, with the content of the image or empty."""
        id = uuid4()
        volume = Ref(id, await self.backend.create_volume(new_token(), id, NAME, size_gb, image))
        self._volumes.append(volume)
        await self.until_volume(volume, VolumeState.AVAILABLE)
        return volume

    async def until_volume(self, volume: Ref, state: VolumeState) -> Volume:
        """Wait until the volume has the state."""

        async def look() -> Volume | None:
            found = (await self.backend.list_volumes([volume]))[volume.id]
            return found if found.state is state else None

        return await self.until(look)

    async def begin_image(self, vm: Ref) -> Ref:
        """Begin to save the server's disk."""
        id = uuid4()
        self._images.append(Ref(id))  # a cloud may leave the image of a snapshot that it refuses
        return Ref(id, await self.backend.create_server_image(new_token(), vm, id, NAME))

    async def until_saved(self, image: Ref) -> Image:
        """Wait until the image is saved."""

        async def look() -> Image | None:
            found = (await self.backend.list_images([image]))[image.id]
            assert found.state is not ImageState.ERROR, found.fault
            return found if found.state is ImageState.ACTIVE else None

        return await self.until(look)

    async def inventory(self, kind: Kind) -> set[UUID | None]:
        """Return the marks of all that this service has in the cloud."""
        page = await self.backend.inventory(kind, None)
        found = {item.id for item in page.items.values()}
        while page.next is not None:
            page = await self.backend.inventory(kind, page.next)
            found |= {item.id for item in page.items.values()}
        return found

    async def until(self, look: Callable[[], Awaitable[T | None]]) -> T:
        """Look until there is something to see."""
        end = time.monotonic() + DEADLINE
        while not (found := await look()):
            assert time.monotonic() < end
            await asyncio.sleep(self.pause)
        return found

    async def clear(self) -> None:
        """Remove all that was made."""
        for image in self._images:
            await self.backend.delete_image(new_token(), image)
        for vm in self._servers:
            await self.delete(vm)
        for volume in self._volumes:
            await self.backend.delete_volume(new_token(), volume)


def new_token() -> Token:
    """Return the token of a call of a new operation."""
    return Token(uuid4(), "step")


async def refusals(*calls: Awaitable[object]) -> list[tuple[str, bool]]:
    """Return the codes with which calls are refused, and whether they may succeed later."""
    found = []
    for call in calls:
        try:
            await call
        except BackendError as error:
            found.append((error.code, error.retryable))
        else:
            found.append(("accepted", False))
    return found


async def refusal(call: Awaitable[object]) -> tuple[str, bool]:
    """Return the same of one call."""
    return (await refusals(call))[0]
