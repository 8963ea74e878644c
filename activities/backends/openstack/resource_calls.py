"""What volumes, images and ports have in common: how they are found, shown and deleted."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from activities.backends.openstack import reading
from activities.backends.openstack.actions import OpenStackActions
from activities.backends.openstack.bodies import Body
from activities.backends.openstack.calls import Accepted, Found, Request
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.polling import Poll
from activities.backends.openstack.records import Gone, ImageRow, PortRow, VolumeRow
from activities.backends.openstack.verdict import Verb, Want
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from domain.settings import Settings

KNOWN_SERVERS: Final = 10_000
R = TypeVar("R", VolumeRow, ImageRow, PortRow)


class OpenStackResources(OpenStackActions):
    """The base of volumes, images and ports."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._vms: dict[str, UUID] = {}  # by the cloud's id of the server, which never changes its VM

    def _note_vm(self, server_id: str, vm_id: UUID) -> None:
        """Remember which VM a server belongs to, for volumes that are attached to it."""
        if len(self._vms) >= KNOWN_SERVERS:
            self._vms.clear()
        self._vms[server_id] = vm_id

    async def _shown(
        self, poll: Poll[R | Gone], wanted: Collection[Ref], marked: Callable[[UUID], Awaitable[Sequence[R]]]
    ) -> Mapping[UUID, R]:
        """Return what the cloud shows of the things, by our ids; `marked` finds those whose row keeps no cloud id."""
        ids = {ref.cloud_id: ref.id for ref in wanted if ref.cloud_id}
        known = await self._ask(poll, ids.keys()) if ids else {}
        if missing := sorted(ids.keys() - known.keys()):
            # A thing that is not shown may still be there, and the caller would take it for gone.
            message = f"The cloud did not answer the question about {missing[0]}."
            raise BackendError("cloud_unavailable", message, retryable=True)
        rows = {ids[id]: row for id, row in known.items() if not isinstance(row, Gone)}
        for ref in wanted:
            if ref.cloud_id is None and (found := await marked(ref.id)):
                rows[ref.id] = found[0]
        return rows

    async def _remove(
        self, token: Token, verb: str, service: Service, path: str, is_going: Callable[[Body], bool] = lambda _: False
    ) -> None:
        """Delete the thing at the path; no error if the cloud does not have it, or is deleting it already.

        Ids are never used again, so a delete that the cloud accepted and did not carry out is sent again.
        """

        async def find(_: datetime | None) -> Found | None:
            answer = await reading.read_one(self._fetch, service, path)
            return Found() if answer is None or is_going(answer.body) else None

        async def has_failed(_: Accepted) -> bool:
            return await find(None) is None

        try:
            await self._calls.call(token, verb, lambda _: Request(service, "DELETE", path), find, has_failed)
        except CloudError as error:
            # Somebody else may have deleted it between the look and the call.
            if error.code not in {"not_found", "conflict"} or await find(None) is None:
                raise

    async def _check_settled(self, token: Token, verb: str) -> None:
        """Raise a retryable error if what the call undoes is not there only because the cloud has yet to make it."""
        if token.compensates:
            await self._calls.check_settled(token.operation_id, verb)

    async def _action_failed(self, server_id: str, verb: Verb, accepted: Accepted) -> bool:
        """Return whether the entry of an accepted action says that it failed; one that is still going on did not."""
        entry = await self._entry(server_id, Want(verb, accepted.since, accepted.request_id))
        return entry is not None and entry.has_failed


def part_of(token: Token, part: str) -> Token:
    """Return the token of one of several calls in a step. With a shared token, only the first would take effect."""
    return replace(token, step=f"{token.step}/{part}")
