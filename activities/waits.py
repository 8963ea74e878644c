"""Waiting for servers: one activity per operation, one list call per worker however many wait."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

from temporalio import activity

from activities.backends.protocol import BackendError, ComputeBackend, Server
from domain.messages import Activity, ServerStatus, WaitForServerInput


class ServerPoll:
    """Answers every waiter of this worker from the same look at the cloud."""

    def __init__(self, backend: ComputeBackend) -> None:
        self._backend = backend
        self._asked: set[UUID] = set()
        self._next: asyncio.Task[Mapping[UUID, Server]] | None = None

    async def look(self, vm_id: UUID) -> Server | None:
        """The VM's server as a look that has yet to begin will see it; None where it is gone."""
        if self._next is None:
            self._next = asyncio.create_task(self._list())
        self._asked.add(vm_id)
        return (await asyncio.shield(self._next)).get(vm_id)

    async def _list(self) -> Mapping[UUID, Server]:
        await asyncio.sleep(self._backend.poll_interval)
        asked, self._asked, self._next = self._asked, set(), None
        return await self._backend.list_servers(asked)


class WaitActivities:
    """Activities that only wait; they heartbeat and can be cancelled at any time."""

    def __init__(self, backend: ComputeBackend) -> None:
        self._poll = ServerPoll(backend)

    @activity.defn(name=Activity.WAIT_FOR_SERVER)
    async def wait_for_server(self, input: WaitForServerInput) -> None:
        """Return once the server is in the status; `server_error` or `server_gone` where it will not get there."""
        while not _arrived(await self._poll.look(input.operation.vm_id), input.status):
            pass


def _arrived(server: Server | None, wanted: ServerStatus) -> bool:
    status = server.status if server else ServerStatus.GONE
    if status is wanted:
        return True
    if status is ServerStatus.GONE:
        raise BackendError("server_gone", "The cloud no longer has the server.", retryable=False)
    if server and status is ServerStatus.ERROR:
        raise BackendError("server_error", server.fault or "The cloud shows the server in ERROR.", retryable=False)
    return False
