"""Images of snapshots, which Nova saves in Glance."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from activities.backends.openstack import bodies, marks, reading
from activities.backends.openstack.base import no_server
from activities.backends.openstack.calls import Found, Request
from activities.backends.openstack.errors import Service
from activities.backends.openstack.records import DownServer, Gone, ImageRow, ServerRow
from activities.backends.openstack.resource_calls import OpenStackResources, part_of
from activities.backends.openstack.resource_verdicts import IMAGE_GONE, image_verdict
from activities.backends.openstack.slow import IMAGE_WORK, reason_to_wait
from activities.backends.openstack.verdict import Failed, Verb, Want, entry_of
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Image, Ref
from domain.rules.cloud import ImageState

DELETE: Final = "delete_image"
STATES: Final = {
    "queued": ImageState.QUEUED,
    "saving": ImageState.SAVING,
    "importing": ImageState.SAVING,
    "uploading": ImageState.SAVING,
    "active": ImageState.ACTIVE,
}
_BEST_FIRST: Final = ("active", "uploading", "importing", "saving")


class OpenStackImages(OpenStackResources):
    """Images of snapshots."""

    async def create_server_image(self, token: Token, vm: Ref, image_id: UUID, name: str) -> str:
        server_id = await self._needed_server_id(vm)
        base_id: str | None = None
        lost: list[ImageRow] = []

        def send(_: int) -> Request:
            image = {"name": name, "metadata": marks.of_image(image_id, vm.id, server_id, base_id, token)}
            path = f"/servers/{server_id}/action"
            return Request(Service.COMPUTE, "POST", path, {"createImage": image}, lambda body: str(body["image_id"]))

        async def find(since: datetime | None) -> Found | None:
            nonlocal base_id
            server = await self._read_server(server_id)
            if since is None and server is None:
                raise no_server()
            if isinstance(server, ServerRow):
                check_has_disk(server)
                base_id = server.image_id
            made = await self._images_marked(image_id)
            # Nova makes the image first. If the server is changed by another request in that moment, Nova leaves the
            # image queued for ever and has no entry of the action.
            has_begun = since is not None and await self._own_entry(server_id, Verb.SNAPSHOT, since) is not None
            found = next((row for row in made if has_begun or row.status != "queued"), None)
            lost[:] = made
            return Found(found.id) if found else None

        cloud_id = self._made(await self._calls.call(token, Verb.SNAPSHOT, send, find))
        for row in lost:
            if row.id != cloud_id:
                await self._remove_image(token, row.id)
        self._watcher.images.hasten(cloud_id)
        return cloud_id

    async def delete_image(self, token: Token, image: Ref) -> None:
        if image.cloud_id is not None:
            await self._remove_image(token, image.cloud_id)
            return
        found = await self._images_marked(image.id)
        if not found:
            await self._check_settled(token, Verb.SNAPSHOT)
        for row in found:
            await self._remove_image(token, row.id)

    async def list_images(self, wanted: Collection[Ref]) -> Mapping[UUID, Image]:
        rows = await self._shown(self._watcher.images, wanted, self._images_marked)
        faults = await self._faults([row for row in rows.values() if row.status in IMAGE_WORK])
        now = self._cloud.now(Service.IMAGE)
        return {
            id: replace(_image_from(id, row, faults.get(row.id)), waits_for=reason_to_wait(row, now))
            for id, row in rows.items()
            if row.status not in IMAGE_GONE
        }

    async def _faults(self, unfinished: Collection[ImageRow]) -> Mapping[str, str]:
        """Return why images will never be saved, by the cloud's id. The cloud itself shows them as at the beginning."""
        of_servers = {row.id: row.server_id for row in unfinished if row.server_id}
        if not of_servers:
            return {}
        servers = await self._ask(self._watcher.servers, set(of_servers.values()))
        faults: dict[str, str] = {}
        for id, server_id in of_servers.items():
            server = servers.get(server_id)
            # The image was read before the server, so it may be complete by now.
            if _is_done(server) and (row := await self._read_image(id)) and row.status in IMAGE_WORK:
                want = await self._saving_of(row, server_id)
                action = await self._entry(server_id, want) if want.request_id else None
                found = image_verdict(want, row, server, action, self._cloud.now(Service.COMPUTE))
                if isinstance(found, Failed):
                    faults[id] = found.message
                elif action is None and row.status == "queued":
                    faults[id] = "The cloud left the image queued, because another request changed the server first."
        return faults

    async def _saving_of(self, image: ImageRow, server_id: str) -> Want:
        """Return the request that made the image, with its id if the server has an entry of it."""
        want = Want(Verb.SNAPSHOT, image.created_at - timedelta(seconds=1))  # times are whole seconds
        entry = entry_of(want, await self._entries(server_id), await self._cloud.user_id())
        return replace(want, request_id=entry.request_id) if entry else want

    async def _read_image(self, id: str) -> ImageRow | None:
        answer = await reading.read_one(self._fetch, Service.IMAGE, f"/images/{id}")
        return bodies.image_from(answer.body) if answer else None

    async def _images_marked(self, id: UUID) -> Sequence[ImageRow]:
        """Return the images with this mark, those first that are complete or the nearest to it."""
        query = ((marks.SNAPSHOT, str(id)),)
        rows = map(bodies.image_from, await self._rows(Service.IMAGE, "/images", query, "images"))
        found = [row for row in rows if marks.snapshot_of(row) == id and row.status not in IMAGE_GONE]
        newest_first = sorted(found, key=lambda row: (row.created_at, row.id), reverse=True)
        return sorted(newest_first, key=_rank)

    async def _remove_image(self, token: Token, id: str) -> None:
        await self._remove(part_of(token, id), DELETE, Service.IMAGE, f"/images/{id}")


def check_has_disk(server: ServerRow) -> None:
    """Raise a BackendError if the server boots from a volume.

    Nova would save it as an image without content and a snapshot of each of its volumes, which nothing deletes again.
    """
    if server.image_id is None:
        message = "A server that boots from a volume has no disk of its own."
        raise BackendError("not_supported_by_cloud", message, retryable=False)


def _rank(image: ImageRow) -> int:
    return _BEST_FIRST.index(image.status) if image.status in _BEST_FIRST else len(_BEST_FIRST)


def _is_done(server: ServerRow | DownServer | Gone | None) -> bool:
    """Whether nothing goes on at the server, which is so if it does not exist."""
    return isinstance(server, Gone) or (isinstance(server, ServerRow) and (server.is_idle or server.is_deleted))


def _image_from(id: UUID, row: ImageRow, fault: str | None) -> Image:
    if row.status not in STATES:
        fault = f"Somebody else made the image {row.status}."
    return Image(id, row.id, ImageState.ERROR if fault else STATES[row.status], fault)
