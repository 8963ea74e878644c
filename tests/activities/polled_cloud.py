"""The mock cloud as waiting activities see it: it records the polls and can hold back their answers."""

import asyncio
from collections.abc import Collection, Mapping
from uuid import UUID

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import Image, Server, Volume
from domain.settings import Settings


class PolledCloud(MockBackend):
    """The mock cloud with a record of its list calls; while `may_answer` is cleared, they are not answered."""

    poll_interval = 0.02

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.polls: list[set[UUID]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._polled = asyncio.Event()

    async def list_servers(self, vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        servers = await super().list_servers(vm_ids)
        await self._record(vm_ids)
        return servers

    async def list_volumes(self, volume_ids: Collection[UUID]) -> Mapping[UUID, Volume]:
        volumes = await super().list_volumes(volume_ids)
        await self._record(volume_ids)
        return volumes

    async def list_images(self, image_ids: Collection[UUID]) -> Mapping[UUID, Image]:
        images = await super().list_images(image_ids)
        await self._record(image_ids)
        return images

    async def _record(self, ids: Collection[UUID]) -> None:
        self.polls.append(set(ids))
        self._polled.set()
        await self.may_answer.wait()

    async def wait_for_polls(self, number: int = 1) -> None:
        """Return once that many more polls have read the cloud."""
        for _ in range(number):
            self._polled.clear()
            await self._polled.wait()
