"""Volumes of the cloud, which Cinder has, and their attachments, which Nova makes."""

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from activities.backends.openstack import bodies, marks, reading
from activities.backends.openstack.base import no_server
from activities.backends.openstack.bodies import Body
from activities.backends.openstack.calls import Accepted, Found, Request
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.records import Gone, ServerRow, VolumeRow
from activities.backends.openstack.resource_calls import OpenStackResources
from activities.backends.openstack.slow import reason_to_wait
from activities.backends.openstack.verdict import Verb
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref, Volume
from domain.rules.cloud import VolumeState

CREATE: Final = "create_volume"
DELETE: Final = "delete_volume"
STATES: Final = {
    "creating": VolumeState.CREATING,
    "downloading": VolumeState.CREATING,
    "available": VolumeState.AVAILABLE,
    "reserved": VolumeState.ATTACHING,
    "attaching": VolumeState.ATTACHING,
    "in-use": VolumeState.IN_USE,
    "detaching": VolumeState.DETACHING,
    "extending": VolumeState.EXTENDING,
    "deleting": VolumeState.DELETING,
}
_PASSING: Final = {VolumeState.CREATING, VolumeState.ATTACHING, VolumeState.EXTENDING}
LONGEST_PASSING: Final = timedelta(minutes=10)
"""A volume that has been in such a state for longer is not waited for."""


class OpenStackVolumes(OpenStackResources):
    """Volumes."""

    async def create_volume(
        self, token: Token, volume_id: UUID, name: str, size_gb: int, image: Ref | None = None
    ) -> str:
        volume = {"name": name, "size": size_gb, "metadata": marks.of_volume(volume_id, token)}
        if image is not None:
            volume["imageRef"] = image.cloud_id

        async def find(_: datetime | None) -> Found | None:
            made = await self._volumes_marked(volume_id)
            return Found(made[0].id) if made else None

        request = Request(
            Service.VOLUME, "POST", "/volumes", {"volume": volume}, lambda body: str(body["volume"]["id"])
        )
        return self._made(await self._calls.call(token, CREATE, lambda _: request, find))

    async def delete_volume(self, token: Token, volume: Ref) -> None:
        id = await self._volume_id(volume)
        if id is None:
            await self._check_settled(token, CREATE)
            return
        try:
            await self._remove(token, DELETE, Service.VOLUME, f"/volumes/{id}", _is_being_deleted)
        except CloudError as error:
            if error.code == "conflict":
                await self._check_rests(error, id)
            raise

    async def extend_volume(self, token: Token, volume: Ref, size_gb: int) -> None:
        id = await self._volume_id(volume)
        if id is None:
            raise _no_volume()
        path = f"/volumes/{id}"

        # Cinder refuses a size that the volume has already.
        async def find(since: datetime | None) -> Found | None:
            answer = await reading.read_one(self._fetch, Service.VOLUME, path)
            if answer is None:
                raise _no_volume()
            row = bodies.volume_from(bodies.single(answer.body, "volume"))
            is_extending = since is not None and row.status == "extending"
            return Found() if is_extending or row.size_gb >= size_gb else None

        request = Request(Service.VOLUME, "POST", f"{path}/action", {"os-extend": {"new_size": size_gb}})
        try:
            await self._calls.call(token, Verb.EXTEND, lambda _: request, find)
        except CloudError as error:
            if error.code == "conflict":
                await self._check_rests(error, id)  # it is reserved while its server is being resized
            raise
        self._watcher.volumes.hasten(id)

    async def attach_volume(self, token: Token, vm: Ref, volume: Ref, device: str | None) -> str:
        del device  # a member may wish for one, and hypervisors choose another one all the same
        server_id, volume_id = await self._needed_server_id(vm), await self._volume_id(volume)
        if volume_id is None:
            raise _no_volume()
        self._note_vm(server_id, vm.id)
        path = f"/servers/{server_id}/os-volume_attachments"

        async def find(_: datetime | None) -> Found | None:
            return Found() if await self._attachment(server_id, volume_id) else None

        # Otherwise the cloud deletes the volume together with the server.
        body = {"volumeAttachment": {"volumeId": volume_id, "delete_on_termination": False}}
        try:
            await self._calls.call(token, Verb.ATTACH, lambda _: Request(Service.COMPUTE, "POST", path, body), find)
        except CloudError as error:
            if error.code == "not_found":
                raise no_server() from error
            # It may be attached already because an earlier request has done it meanwhile.
            if error.code != "conflict" or await find(None) is None:
                raise
        attachment = await self._attachment(server_id, volume_id)
        if attachment is None:
            raise BackendError("volume_detached", "The cloud no longer has the volume at the server.", retryable=False)
        self._watcher.volumes.hasten(volume_id)
        if not isinstance(attachment.get("device"), str):
            raise bodies.UnreadableError("the `device` of an attachment is not there")
        return str(attachment["device"])

    async def detach_volume(self, token: Token, vm: Ref, volume: Ref) -> None:
        server_id, volume_id = await self._server_id(vm), await self._volume_id(volume)
        if server_id is None or volume_id is None:
            return
        self._note_vm(server_id, vm.id)
        path = f"/servers/{server_id}/os-volume_attachments/{volume_id}"

        async def find(_: datetime | None) -> Found | None:
            if await self._attachment(server_id, volume_id):
                return None
            await self._check_settled(token, Verb.ATTACH)
            return Found()

        # The volume may have been attached again since an earlier call, so only the entry of that call can prove that
        # it failed.
        async def has_failed(accepted: Accepted) -> bool:
            return await self._action_failed(server_id, Verb.DETACH, accepted)

        try:
            request = Request(Service.COMPUTE, "DELETE", path)
            await self._calls.call(token, Verb.DETACH, lambda _: request, find, has_failed)
        except CloudError as error:
            if error.code not in {"not_found", "conflict"}:
                raise
            await self._check_detaches(error, server_id, volume_id)
        self._watcher.volumes.hasten(volume_id)

    async def list_volumes(self, wanted: Collection[Ref], *, with_faults: bool = True) -> Mapping[UUID, Volume]:
        rows = await self._shown(self._watcher.volumes, wanted, self._volumes_marked)
        await self._learn_vms({found.server_id for row in rows.values() for found in row.attachments})
        now = self._cloud.now(Service.VOLUME)
        volumes = {
            id: replace(self._volume_from(id, row), waits_for=reason_to_wait(row, now)) for id, row in rows.items()
        }
        for id, volume in volumes.items():
            if with_faults and volume.state is VolumeState.ERROR:
                volumes[id] = replace(volume, fault=await self._fault(rows[id].id))
        return volumes

    async def _check_detaches(self, refusal: CloudError, server_id: str, volume_id: str) -> None:
        """Return if a detach was refused because it is not needed; raise an error otherwise."""
        if await self._attachment(server_id, volume_id) is None:
            return
        if await self._read_server(server_id) is None:
            # For a moment a deleted server still has its volumes.
            raise BackendError("busy", "The cloud is still deleting the server.", retryable=True) from refusal
        if await self._check_rests(refusal, volume_id) is not VolumeState.DETACHING:
            raise refusal

    async def _check_rests(self, refusal: CloudError, volume_id: str) -> VolumeState | None:
        """Return the state of a volume after a refusal; raise a retryable error if it only has to wait."""
        answer = await reading.read_one(self._fetch, Service.VOLUME, f"/volumes/{volume_id}")
        if answer is None:
            return None
        volume = bodies.volume_from(bodies.single(answer.body, "volume"))
        state = _state(volume)
        # A volume that its host has lost stays so for ever, and then the refusal stands.
        if state in _PASSING and answer.date - volume.updated_at < LONGEST_PASSING:
            raise BackendError("busy", f"The volume is still {state} in the cloud.", retryable=True) from refusal
        return state

    async def _attachment(self, server_id: str, volume_id: str) -> Body | None:
        """Return how the server has the volume, or is going to have it; None if it does not."""
        path = f"/servers/{server_id}/os-volume_attachments/{volume_id}"
        answer = await reading.read_one(self._fetch, Service.COMPUTE, path)
        return bodies.single(answer.body, "volumeAttachment") if answer else None

    async def _volume_id(self, volume: Ref) -> str | None:
        """Return the cloud's id of the volume; None if the row keeps none and no volume has the mark."""
        if volume.cloud_id is not None:
            return volume.cloud_id
        found = await self._volumes_marked(volume.id)
        return found[0].id if found else None

    async def _volumes_marked(self, id: UUID) -> Sequence[VolumeRow]:
        """Return the volumes with this mark, the oldest first."""
        query = (("metadata", json.dumps({marks.VOLUME: str(id)})), ("sort", "created_at:asc"))
        found = await self._rows(Service.VOLUME, "/volumes/detail", query, "volumes")
        # An operator may have removed the filter, and then all volumes come back.
        return [volume for volume in map(bodies.volume_from, found) if marks.volume_of(volume) == id]

    async def _learn_vms(self, server_ids: Collection[str]) -> None:
        """Find out which VMs these servers belong to."""
        unknown = {id for id in server_ids if id not in self._vms}
        servers = await self._ask(self._watcher.servers, unknown) if unknown else {}
        for id in unknown:
            match servers.get(id):
                case ServerRow() as server:
                    # The VM of a server that somebody else has made has the server's id, if there is one.
                    self._note_vm(id, marks.vm_of(server) or UUID(id))
                case Gone():
                    pass
                case _:
                    # The caller would take the volume for one that another server has.
                    message = f"The cloud cannot show the server {id}, which has a volume."
                    raise BackendError("cloud_unavailable", message, retryable=True)

    async def _fault(self, volume_id: str) -> str | None:
        """Return why a volume is in an error state, if the cloud tells that."""
        query = (("resource_uuid", volume_id),)
        with contextlib.suppress(BackendError):  # without a reason, the state says enough
            return bodies.newest_message(await self._rows(Service.VOLUME, "/messages", query, "messages"))
        return None

    def _volume_from(self, id: UUID, row: VolumeRow) -> Volume:
        # Somebody else may attach it to more servers, if its type allows that.
        attached = next(iter(sorted(row.attachments, key=lambda found: found.server_id not in self._vms)), None)
        vm_id = self._vms.get(attached.server_id) if attached else None
        return Volume(id, _state(row), vm_id, attached.device if attached else None, size_gb=row.size_gb)


def _no_volume() -> BackendError:
    return BackendError("volume_not_found", "The cloud does not have the volume.", retryable=False)


def _state(volume: VolumeRow) -> VolumeState:
    if volume.status.startswith("error"):
        return VolumeState.ERROR
    # Somebody else backs it up, retypes it, or the like.
    other = VolumeState.IN_USE if volume.attachments else VolumeState.AVAILABLE
    return STATES.get(volume.status, other)


def _is_being_deleted(body: Any) -> bool:
    return bodies.volume_from(bodies.single(body, "volume")).status == "deleting"
