"""Actions on a server: each is sent once, and whether it is over is read from the server and from its own entry."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from activities.backends.openstack import bodies, marks, reading
from activities.backends.openstack.base import OpenStackParts, no_server
from activities.backends.openstack.calls import Found, Request
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.records import ActionEntry, DownServer, Gone, ServerRow
from activities.backends.openstack.slow import is_lost_build
from activities.backends.openstack.verdict import (
    Changed,
    Done,
    Failed,
    Undecided,
    Verb,
    Verdict,
    Want,
    Working,
    by_action,
    entry_of,
    verdict,
)
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from domain.rules.errors import BUILD_AGAIN

REPEAT_DELETE: Final = timedelta(seconds=30)
"""A delete that meets a build or a dead host may be forgotten. One that is repeated finds it over, or the host back."""
BUILDS: Final = 3
"""How often a server is built if its builds fail for reasons that may pass."""
FAILED_BUILD: Final = "discard_failed_build"
DOUBLE: Final = "discard_double"
"""Deletes of servers that an operation has made and does not keep. They are not what the operation waits for."""
_NOT_READY: Final = "is not ready"  # what Nova says of a server without a host
_MAY_PASS: Final = {"build_failed", "server_error"}
_LASTS: Final = re.compile(r"image|flavor|quota|maximum number of (?!retries)", re.IGNORECASE)
DELETES: Final = 5
"""How often a delete that fails is sent."""
ENDED_BY_STATUS: Final = frozenset(
    {Verb.CREATE, Verb.START, Verb.STOP, Verb.REBOOT, Verb.RESIZE, Verb.CONFIRM, Verb.REVERT, Verb.REBUILD, Verb.DELETE}
)
"""The calls whose end the server itself shows."""
ENDED_ELSEWHERE: Final = frozenset({Verb.ATTACH, Verb.DETACH, Verb.SNAPSHOT})
"""The calls whose end a volume or an image shows. Why they failed, only the server's entry tells."""


class OpenStackActions(OpenStackParts):
    """Actions on servers."""

    async def is_over(self, operation_id: UUID, vm: Ref) -> bool:
        id = await self._server_id(vm)
        if id is None:
            return True
        call = await self._ledger.last_accepted(operation_id, ENDED_BY_STATUS)
        if call is None:
            await self._check_entry(operation_id, id)
            return True
        want = Want(Verb(call.verb), call.since, call.request_id)
        # Usually the caller has just got the answer of a poll that began after the request.
        server = self._watcher.servers.latest(id) or await self._read_server(id) or Gone(id)
        now = self._cloud.now(Service.COMPUTE)
        found = verdict(want, server, None, now)
        if isinstance(found, Undecided) and found.needs_action:
            found = verdict(want, server, await self._entry(id, want), now)
        if want.verb is Verb.DELETE and not isinstance(found, Done):
            return await self._repeat_delete(operation_id, id, found, now - want.since)
        if want.verb is Verb.CREATE and isinstance(found, Working) and is_lost_build(server, now):
            await self._discard_failed_build(operation_id, server, found.waits_for)
        match found:
            case Failed(code, message):
                if want.verb is Verb.CREATE and (_may_pass(found) or isinstance(server, Gone)):
                    await self._discard_failed_build(operation_id, server, message)
                raise BackendError(code, message, retryable=False)
            case Changed(message):
                raise BackendError("changed_meanwhile", message, retryable=False)
        if want.verb is Verb.CREATE and isinstance(found, Done) and call.attempt > 1:
            await self._delete_doubles(operation_id, id)
        return isinstance(found, Done)

    async def _check_entry(self, operation_id: UUID, server_id: str) -> None:
        """Raise a BackendError if the server's entry of the operation's last call says that it failed."""
        call = await self._ledger.last_accepted(operation_id, ENDED_ELSEWHERE)
        if call is None:
            return
        want = Want(Verb(call.verb), call.since, call.request_id)
        entry = await self._entry(server_id, want)
        found = by_action(want, entry, call.since, self._cloud.now(Service.COMPUTE), "it is not done")
        if isinstance(found, Failed):
            raise BackendError(found.code, found.message, retryable=False)

    async def _act(
        self, token: Token, verb: Verb, vm: Ref, body: Mapping[str, Any], is_done: Callable[[ServerRow], bool]
    ) -> None:
        """Begin an action. If the server is idle and already as the action would make it, send nothing."""
        id = await self._needed_server_id(vm)

        async def find(since: datetime | None) -> Found | None:
            if since is not None and await self._own_entry(id, verb, since):
                return Found()
            server = await self._read_server(id)
            if server is None:
                raise no_server()
            if isinstance(server, DownServer):
                message = "The part of the cloud that has the server is down."
                raise BackendError("cloud_unavailable", message, retryable=True)
            return Found() if server.is_idle and is_done(server) else None

        request = Request(Service.COMPUTE, "POST", f"/servers/{id}/action", body)
        try:
            await self._call(token, verb, lambda _: request, find)
        except CloudError as error:
            if _NOT_READY in str(error):
                await self._check_is_being_built(error, id)
            raise
        self._watcher.servers.hasten(id)

    async def _check_is_being_built(self, refusal: CloudError, id: str) -> None:
        """Raise a final error if the server will never be what Nova calls ready, because its build has failed."""
        server = await self._read_server(id)
        if isinstance(server, ServerRow) and server.status == "ERROR" and server.is_idle:
            raise BackendError("conflict", str(refusal), retryable=False) from refusal

    async def _delete(self, token: Token, id: str, verb: str = Verb.DELETE) -> None:
        """Begin to delete a server."""

        async def find(_: datetime | None) -> Found | None:
            return None if await self._read_server(id) else Found()

        try:
            request = Request(Service.COMPUTE, "DELETE", f"/servers/{id}")
            await self._calls.call(token, verb, lambda _: request, find)
        except CloudError as error:
            if error.code != "not_found":
                raise
        self._watcher.servers.hasten(id)

    async def _repeat_delete(self, operation_id: UUID, id: str, found: Verdict, age: timedelta) -> bool:
        """Send a delete that is not done again once it is that old; a BackendError if it has failed often enough.

        Nova puts a server into ERROR if another service fails while it deletes the server.
        """
        repeats = len(await self._ledger.steps(operation_id, Verb.DELETE))
        if isinstance(found, Failed) and repeats >= DELETES:
            raise BackendError(found.code, found.message, retryable=False)
        if age >= REPEAT_DELETE:
            await self._delete(Token(operation_id, f"delete/{id}/{repeats}"), id)  # a token is for one call
        return False

    async def _delete_doubles(self, operation_id: UUID, id: str) -> None:
        """Delete what other attempts of the operation have made, whose answers were lost."""
        for server in await self._servers_tagged(marks.operation_tag(operation_id)):
            if server.id != id:
                await self._delete(Token(operation_id, f"double/{server.id}"), server.id, DOUBLE)

    async def _discard_failed_build(
        self, operation_id: UUID, server: ServerRow | DownServer | Gone, reason: str
    ) -> None:
        """Delete the server and raise BUILD_AGAIN, unless that was done often enough.

        Nova gives up on a build within seconds if another service of the cloud, or a host, is away.
        """
        step, is_gone = _discards(server.id), isinstance(server, Gone)
        discarded = await self._ledger.steps(operation_id, FAILED_BUILD)
        # A server that is gone was deleted here, by an attempt that ended before it could say so, or by somebody else.
        if step in discarded or (not is_gone and len(discarded) < BUILDS - 1):
            await self._delete(Token(operation_id, step), server.id, FAILED_BUILD)
            raise BackendError(BUILD_AGAIN, f"{reason} It is built again.", retryable=False)

    async def _is_discarded(self, operation_id: UUID, id: str) -> bool:
        """Return whether the server's build has failed, so that another server is to be made."""
        return _discards(id) in await self._ledger.steps(operation_id, FAILED_BUILD)

    async def _own_entry(self, server_id: str, verb: Verb, since: datetime) -> ActionEntry | None:
        """Return the entry of an action that this call may have begun unseen; None if there is none.

        An entry that failed at once is of an attempt that the cloud refused.
        """
        entries = [entry for entry in await self._entries(server_id) if not entry.has_failed]
        others = await self._ledger.known_requests([entry.request_id for entry in entries])
        # Times are whole seconds, and the entry's may be one before the answer's.
        want = Want(verb, since - timedelta(seconds=1))
        unknown = [entry for entry in entries if entry.request_id not in others]
        return entry_of(want, unknown, await self._cloud.user_id())

    async def _entry(self, server_id: str, want: Want) -> ActionEntry | None:
        """Return the entry of an accepted action, with its events; None if it is not there."""
        request_id = want.request_id
        if request_id is None:
            entry = await self._own_entry(server_id, want.verb, want.since)
            request_id = entry.request_id if entry else None
        if request_id is None:
            return None
        path = f"/servers/{server_id}/os-instance-actions/{request_id}"
        answer = await reading.read_one(self._fetch, Service.COMPUTE, path)
        return bodies.action_from(bodies.single(answer.body, "instanceAction")) if answer else None

    async def _entries(self, server_id: str) -> Sequence[ActionEntry]:
        """Return the entries of a server's actions, without their events."""
        path = f"/servers/{server_id}/os-instance-actions"
        answer = await reading.read_one(self._fetch, Service.COMPUTE, path)
        return [bodies.action_from(row) for row in bodies.listed(answer.body, "instanceActions")] if answer else []


def _may_pass(failure: Failed) -> bool:
    """Return whether a build may succeed if it is repeated. Nova often hides the reason, so this is a guess."""
    return failure.code in _MAY_PASS and not _LASTS.search(failure.message)


def _discards(id: str) -> str:
    return f"failed-build/{id}"
