"""Waiting for servers: one activity per operation, one list call per worker however many wait."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.backends.protocol import BackendError, ComputeBackend, Server
from domain import store
from domain.messages import Activity, OperationInput, ServerStatus, WaitForServerInput

LOOK_TIMEOUT = 10.0  # seconds
PATIENCE = timedelta(minutes=30)
AS_BEFORE = {ServerStatus.ACTIVE, ServerStatus.SHUTOFF}  # what a resize begins with


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
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                return await self._backend.list_servers(asked)
        except TimeoutError:
            raise BackendError(
                "no_answer", "The cloud does not answer a look at its servers.", retryable=True
            ) from None


class WaitActivities:
    """Activities that wait for the cloud; they heartbeat and can be cancelled at any time."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        self._engine = engine
        self._backend = backend
        self._poll = ServerPoll(backend)

    @activity.defn(name=Activity.WAIT_FOR_SERVER)
    async def wait_for_server(self, input: WaitForServerInput) -> None:
        """Return once the server is in the status.

        `server_error`, `server_gone` or, of a resize, `no_valid_host` where it will not get there, `timed_out` where a
        look after PATIENCE finds it still under way.
        """
        while not _arrived(await self._poll.look(input.operation.vm_id), input.status):
            if _waited() > PATIENCE:
                message = f"The server did not become {input.status} within {PATIENCE.seconds // 60} minutes."
                raise BackendError("timed_out", message, retryable=False)

    @activity.defn(name=Activity.SETTLE_SERVER)
    async def settle_server(self, input: OperationInput) -> ServerStatus:
        """Refuse the operation's further calls, let the cloud end what it is at, and return what then shows.

        SupersededError where the operation no longer holds its VM. A server still busy after PATIENCE is taken as is.
        """
        async with self._engine.begin() as tx:
            await store.check_holds(tx, input)
        await self._backend.revoke(input.operation_id)
        while (server := await self._poll.look(input.vm_id)) and server.is_busy and _waited() < PATIENCE:
            pass
        return server.status if server else ServerStatus.GONE


def _waited() -> timedelta:
    return datetime.now(UTC) - activity.info().scheduled_time


def _arrived(server: Server | None, wanted: ServerStatus) -> bool:
    status = server.status if server else ServerStatus.GONE
    if status is wanted:
        return True
    if wanted is ServerStatus.VERIFY_RESIZE and server and status in AS_BEFORE and not server.is_busy:
        # How Nova tells that its scheduler found no host: the server is as it was, without any fault.
        message = "No valid host was found: the cloud left the server at its flavor."
        raise BackendError("no_valid_host", message, retryable=False)
    if status is ServerStatus.GONE:
        raise BackendError("server_gone", "The cloud no longer has the server.", retryable=False)
    if server and status is ServerStatus.ERROR and not server.is_busy:
        raise BackendError("server_error", server.fault or "The cloud shows the server in ERROR.", retryable=False)
    return False
