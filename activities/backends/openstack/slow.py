"""Why the cloud takes longer than usual with a server, a volume or an image. Pure functions."""

from datetime import datetime, timedelta
from typing import Final

from activities.backends.openstack.records import DownServer, Gone, ImageRow, ServerRow, VolumeRow

BUSY_LIMIT: Final = timedelta(seconds=60)
SCHEDULING: Final = "scheduling"
SCHEDULING_LIMIT: Final = timedelta(minutes=5)
"""A build that looks for a host for so long has been lost: RabbitMQ had its message when it died."""
VOLUME_WORK: Final = {
    "creating", "downloading", "reserved", "attaching", "detaching", "extending", "deleting", "maintenance",
    "backing-up", "restoring-backup", "retyping", "uploading",
}  # fmt: skip
IMAGE_WORK: Final = {"queued", "saving", "importing", "uploading"}
CELL_IS_DOWN: Final = "The cloud cannot reach the part of itself that has the server."


def reason_to_wait(thing: ServerRow | DownServer | VolumeRow | ImageRow | Gone | None, now: datetime) -> str | None:
    """Return a sentence about why a thing is not done; None if it is, or if the cloud began only now."""
    match thing:
        case DownServer():
            return CELL_IS_DOWN
        case ServerRow() if not thing.is_idle and not thing.is_deleted and now - _last_sign(thing) >= BUSY_LIMIT:
            return work_on(thing, now)
        case VolumeRow(status=status) if status in VOLUME_WORK and now - thing.updated_at >= BUSY_LIMIT:
            return f"Waiting for the cloud: the volume is {status} since {time_of(thing.updated_at)}."
        case ImageRow(status=status) if status in IMAGE_WORK and now - thing.updated_at >= BUSY_LIMIT:
            return f"Waiting for the cloud: the image is {status} since {time_of(thing.updated_at)}."
    return None


def work_on(server: ServerRow, now: datetime) -> str:
    """Return a sentence about what the cloud does with a server that is not idle."""
    task, since = server.task_state or "between two steps", _last_sign(server)
    if now - since < BUSY_LIMIT:
        return f"The server is {server.status}, {task}."
    if task == SCHEDULING:
        return f"The cloud looks for a host for the server since {time_of(since)}."
    return f"Waiting for the host: the server is {server.status}, {task} since {time_of(since)}."


def is_lost_build(server: ServerRow | DownServer | Gone, now: datetime) -> bool:
    """Return whether the cloud will never go on with a build, because the message about it was lost."""
    match server:
        case ServerRow(status="BUILD", task_state="scheduling"):
            return now - server.created_at >= SCHEDULING_LIMIT
    return False


def time_of(time: datetime) -> str:
    """Return a time as messages show it."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _last_sign(server: ServerRow) -> datetime:
    # Of a build that has not reached a host yet, Nova may say that it was changed just now.
    return server.created_at if server.task_state == SCHEDULING else server.updated_at
