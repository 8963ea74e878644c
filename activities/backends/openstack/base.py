"""The base of all parts of the OpenStack backend: the way to the cloud, and how a VM's server is found in it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from activities.backends.openstack import bodies, marks, reading
from activities.backends.openstack.calls import Accepted, Calls, Found, Request
from activities.backends.openstack.configuration import read_configuration
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.ledger import Ledger
from activities.backends.openstack.polling import LoopClock, Poll
from activities.backends.openstack.reading import Answer, Query
from activities.backends.openstack.records import DownServer, ServerRow
from activities.backends.openstack.verdict import Verb
from activities.backends.openstack.watcher import Watcher
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from domain.settings import Settings

T = TypeVar("T")

# The watcher's longest pause, and then a list with a cell that is down. A step is ended not long after this time.
ANSWER_TIMEOUT: Final = 120.0


class OpenStackParts:
    """The base of all parts of the backend."""

    poll_interval = 0.1  # the watcher decides when the cloud is asked
    poll_timeout = ANSWER_TIMEOUT + 10.0

    def __init__(self, settings: Settings) -> None:
        self._cloud = Cloud(read_configuration())
        self._ledger = Ledger(settings)
        self._calls = Calls(self._cloud, self._ledger)
        self._watcher = Watcher(self._fetch, LoopClock())
        self._forgetting: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        await self._ledger.prepare()
        await self._cloud.prepare()
        if self._forgetting is None:
            self._forgetting = asyncio.create_task(self._ledger.forget_old_calls())

    async def close(self) -> None:
        if self._forgetting:
            self._forgetting.cancel()
        await self._calls.close()
        await self._watcher.close()
        self._cloud.close()
        await self._ledger.close()

    async def identity(self) -> str:
        return await self._cloud.identity()

    async def revoke(self, operation_id: UUID) -> None:
        await self._calls.revoke(operation_id)

    async def _call(
        self,
        token: Token,
        verb: Verb,
        send: Callable[[int], Request],
        find: Callable[[datetime | None], Awaitable[Found | None]],
    ) -> Accepted:
        """Carry out a call once; Calls.call says how."""
        return await self._calls.call(token, verb, send, find)

    @staticmethod
    def _made(accepted: Accepted) -> str:
        """Return the cloud's id of what a call has made."""
        if accepted.cloud_id is None:
            raise bodies.UnreadableError("the id of what was made is not there")
        return accepted.cloud_id

    async def _fetch(self, service: Service, path: str, query: Query = ()) -> Answer:
        """Send one GET; BackendError `not_found` for the service's own 404."""
        answer = await self._cloud.get(service, path, query)
        return Answer(answer.value, self._cloud.now(service))

    @staticmethod
    async def _ask(poll: Poll[T], ids: Collection[str]) -> Mapping[str, T]:
        """Return what the watcher shows of the things; a retryable BackendError if the cloud cannot be asked."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await poll.ask(ids)
        except TimeoutError:
            trouble = poll.trouble or BackendError("no_answer", "The cloud did not answer in time.", retryable=True)
            raise BackendError(trouble.code, str(trouble), retryable=True) from None

    async def _rows(self, service: Service, path: str, query: Query, name: str) -> Sequence[bodies.Body]:
        """Return the rows of all pages of a list."""
        pages = reading.pages(self._fetch, service, path, query, name)
        return [row async for page in pages for row in bodies.listed(page.body, name)]

    async def _delete_at_once(self, service: Service, path: str) -> None:
        """Delete the thing at the path without a token; no error if the cloud does not have it."""
        try:
            await self._cloud.run(self._cloud.request, service, "DELETE", path)
        except CloudError as error:
            if error.code != "not_found":
                raise

    async def _find_server(self, vm: Ref) -> ServerRow | DownServer | None:
        """Return the VM's server as it is now; None if the cloud does not have it.

        Without the cloud's id it is the oldest one with the VM's mark.
        """
        if vm.cloud_id is not None:
            return await self._read_server(vm.cloud_id)
        found = await self._servers_tagged(marks.vm_tag(vm.id))
        return found[0] if found else None

    async def _read_server(self, id: str) -> ServerRow | DownServer | None:
        """Return the server with this id of the cloud, as it is now; None if the cloud does not have it."""
        answer = await reading.read_one(self._fetch, Service.COMPUTE, f"/servers/{id}")
        if answer is None:
            return None
        server = bodies.server_from(bodies.single(answer.body, "server"), is_from_list=False)
        return None if isinstance(server, ServerRow) and server.is_deleted else server

    async def _server_id(self, vm: Ref) -> str | None:
        """Return the cloud's id of the VM's server; None if the row keeps none and no server has the VM's mark."""
        if vm.cloud_id is not None:
            return vm.cloud_id
        server = await self._find_server(vm)
        return server.id if server else None

    async def _needed_server_id(self, vm: Ref) -> str:
        """Do the same; BackendError `server_not_found` if there is none."""
        id = await self._server_id(vm)
        if id is None:
            raise no_server()
        return id

    async def _servers_tagged(self, *tags: str) -> Sequence[ServerRow]:
        """Return the servers with one of these tags, the oldest first."""
        rows = await self._rows(Service.COMPUTE, "/servers/detail", (("tags-any", ",".join(tags)),), "servers")
        servers = [bodies.server_from(row, is_from_list=True) for row in rows]
        # A filter that a cloud does not know is ignored, so each row is checked.
        found = [row for row in servers if isinstance(row, ServerRow) and row.tags.intersection(tags)]
        return sorted((row for row in found if not row.is_deleted), key=lambda row: (row.created_at, row.id))


def no_server() -> BackendError:
    """Return the error for a VM without a server."""
    return BackendError("server_not_found", "The cloud has no server for this VM.", retryable=False)
