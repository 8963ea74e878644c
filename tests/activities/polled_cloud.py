"""The mock cloud as waiting activities see it: it records the polls and can hold back their answers."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from uuid import UUID, uuid4

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.protocol import Token
from activities.backends.resources import Image, Ref, Server, Volume
from domain.rules.cloud import ServerStatus
from domain.rules.messages import OperationInput, WaitForServerInput
from domain.rules.states import Action
from domain.settings import Settings
from tests.activities.cloud import server_spec


class PolledCloud(MockBackend):
    """The mock cloud with a record of its list calls; while `may_answer` is cleared, they are not answered.

    `reasons` are what servers wait for, by their VM.
    """

    poll_interval = 0.02

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.polls: list[set[UUID]] = []
        self.reasons: dict[UUID, str] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._polled = asyncio.Event()

    async def list_servers(self, vms: Collection[Ref]) -> Mapping[UUID, Server]:
        listed = await super().list_servers(vms)
        await self._record(vms)
        return {id: replace(server, waits_for=self.reasons.get(id)) for id, server in listed.items()}

    async def list_volumes(self, wanted: Collection[Ref], *, with_faults: bool = True) -> Mapping[UUID, Volume]:
        listed = await super().list_volumes(wanted, with_faults=with_faults)
        await self._record(wanted)
        return listed

    async def list_images(self, wanted: Collection[Ref]) -> Mapping[UUID, Image]:
        listed = await super().list_images(wanted)
        await self._record(wanted)
        return listed

    async def _record(self, wanted: Collection[Ref]) -> None:
        self.polls.append({ref.id for ref in wanted})
        self._polled.set()
        await self.may_answer.wait()

    async def wait_for_polls(self, number: int = 1) -> None:
        """Return once that many more polls have read the cloud."""
        for _ in range(number):
            self._polled.clear()
            await self._polled.wait()


async def add_building_server(cloud: MockBackend) -> UUID:
    """Add a server whose build does not complete by itself, and return its VM's id."""
    vm_id = uuid4()
    await cloud.create_server(Token(uuid4(), "spawning"), server_spec(vm_id))
    return vm_id


async def set_status(
    engine: AsyncEngine, vm_ids: Collection[UUID], status: ServerStatus, fault: str | None = None
) -> None:
    """Give the servers this status; they are not busy afterwards."""
    values = {"status": status, "fault": fault, "due_at": None}
    async with engine.begin() as tx:
        await tx.execute(update(servers).where(servers.c.vm_id.in_(vm_ids)).values(values))


def waiting_for(vm_id: UUID, status: ServerStatus) -> WaitForServerInput:
    """Return the input of a wait for the VM's server."""
    return WaitForServerInput(OperationInput(uuid4(), vm_id, Action.CREATE), status)
