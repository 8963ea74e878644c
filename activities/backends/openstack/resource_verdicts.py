"""Is it over? The same as for servers, for what hangs on them: volumes, images and ports."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from activities.backends.openstack.records import ActionEntry, DownServer, Gone, ImageRow, PortRow, ServerRow, VolumeRow
from activities.backends.openstack.slow import BUSY_LIMIT, IMAGE_WORK, VOLUME_WORK
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
)

IMAGE_GONE: Final = {"killed", "deleted", "pending_delete"}
NOT_LISTED: Final = "The cloud's lists do not show it, which means nothing yet."


@dataclass(frozen=True, slots=True)
class VolumeWant(Want):
    """A request for a volume: `server_id` of an attach or a detach, `size_gb` of an extend."""

    server_id: str | None = None
    size_gb: int = 0


def volume_verdict(  # noqa: PLR0911 - each is a row of the table
    want: VolumeWant, volume: VolumeRow | Gone | None, action: ActionEntry | None, now: datetime
) -> Verdict:
    """Return whether a request for a volume is over. `action` is the entry of the server, for an attach or a detach."""
    if volume is None:
        return Undecided(NOT_LISTED)
    if isinstance(volume, Gone):
        if want.verb in {Verb.DELETE, Verb.DETACH}:
            return Done()
        return Failed("volume_gone", "The cloud no longer has the volume: somebody else deleted it.")
    if _has_what_was_asked(want, volume):
        return Done()
    if volume.status.startswith("error"):
        return Failed("volume_error", f"The cloud reports the volume in state {volume.status}.")
    if volume.status in VOLUME_WORK:
        is_late = now - max(volume.updated_at, want.since) >= BUSY_LIMIT
        # A host that was killed leaves the volume attaching for ever, and its server's entry says whether it failed.
        if action and is_late and action.has_failed:
            return by_action(want, action, volume.updated_at, now, f"the volume is {volume.status}")
        return Working(f"{'Waiting for the host: t' if is_late else 'T'}he volume is {volume.status}.")
    if want.server_id is None:
        # Cinder keeps its reason to itself and returns the volume to the state before.
        return Failed("volume_unchanged", f"The cloud gave up and left the volume {volume.status}.")
    return by_action(want, action, volume.updated_at, now, f"the volume is {volume.status}")


def image_verdict(  # noqa: PLR0911 - each is a row of the table
    want: Want,
    image: ImageRow | Gone | None,
    server: ServerRow | DownServer | Gone | None,
    action: ActionEntry | None,
    now: datetime,
) -> Verdict:
    """Return whether a snapshot is saved. An image that will never be saved looks as at the beginning: queued."""
    if image is None:
        return Undecided(NOT_LISTED)
    if isinstance(image, Gone) or image.status in IMAGE_GONE:
        # A host that fails removes the image; a person may do so, too.
        if action is None:
            return Undecided("The cloud no longer has the image.", needs_action=True)
        if action.has_failed:
            return by_action(want, action, want.since, now, "the image is gone")
        return Failed("image_gone", "The cloud no longer has the image: somebody else deleted it.")
    if image.status == "active":
        return Done()
    if image.status not in IMAGE_WORK:
        return Changed(f"Somebody else made the image {image.status}.")
    if isinstance(server, Gone) or (isinstance(server, ServerRow) and server.status == "DELETED"):
        return Failed("server_gone", "Somebody else deleted the server before the image was saved.")
    if not isinstance(server, ServerRow) or not server.is_idle:
        return Working(f"The image is {image.status}.")
    found = by_action(want, action, server.updated_at, now, f"the image is still {image.status}")
    if isinstance(found, Changed):
        return Failed("image_error", f"The cloud is done with the server and left the image {image.status}.")
    return found


def port_verdict(  # noqa: PLR0911 - each is a row of the table
    want: Want, server_id: str, port: PortRow | Gone | None, action: ActionEntry | None
) -> Verdict:
    """Return whether a port is plugged into the server, or unplugged from it."""
    if port is None:
        return Undecided(NOT_LISTED)
    is_plugged = isinstance(port, PortRow) and port.device_id == server_id
    if is_plugged == (want.verb is Verb.PLUG):
        return Done()
    if isinstance(port, Gone):
        return Failed("port_gone", "The cloud no longer has the port: somebody else deleted it.")
    if port.device_id and not is_plugged:
        return Failed("conflict", "The port belongs to another server.")
    if action is None:
        return Undecided(f"The port is not {'plugged' if want.verb is Verb.PLUG else 'unplugged'}.", needs_action=True)
    if not action.has_failed and not action.has_ended:
        return Working("Waiting for the host: the port is not changed yet.")
    return by_action(want, action, want.since, want.since, "the port is not changed")


def _has_what_was_asked(want: VolumeWant, volume: VolumeRow) -> bool:
    is_attached = volume.attachment_to(want.server_id) is not None if want.server_id else False
    match want.verb:
        case Verb.CREATE:
            return volume.status in {"available", "in-use"}
        case Verb.ATTACH:
            return volume.status == "in-use" and is_attached
        case Verb.DETACH:
            return volume.status == "available" or (volume.status == "in-use" and not is_attached)
        case Verb.EXTEND:
            return volume.status in {"available", "in-use"} and volume.size_gb >= want.size_gb
    return False
