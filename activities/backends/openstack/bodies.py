"""Reads the bodies of the cloud's answers.

Fields that are not read here may be missing, or new. A field that is read must be there and be of its type: a body
without it is not the service's own (a proxy may have sent it), and raises UnreadableError instead of deciding anything.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from activities.backends.openstack.records import (
    ActionEntry,
    ActionEvent,
    Attachment,
    BootImageRow,
    DownServer,
    Fault,
    FlavorRow,
    ImageRow,
    NetworkRow,
    PortRow,
    SecurityGroupRow,
    ServerRow,
    Size,
    SubnetRow,
    VolumeRow,
    ZoneRow,
)
from activities.backends.protocol import BackendError

T = TypeVar("T")
Body = Mapping[str, Any]

MARK_PREFIX: Final = "osvm_"
TASK_STATE: Final = "OS-EXT-STS:task_state"


class UnreadableError(BackendError):
    """An answer of the cloud cannot be read. Another answer to the same question may be complete."""

    def __init__(self, problem: str) -> None:
        super().__init__("cloud_error", f"The cloud gave an answer that cannot be read: {problem}.", retryable=True)


def server_from(body: Body, *, is_from_list: bool) -> ServerRow | DownServer:
    """Return the server of one row."""
    # Some clouds append words in parentheses to the status.
    id, status = _text(body, "id"), _text(body, "status").partition("(")[0].strip()
    if status == "UNKNOWN" and TASK_STATE not in body:
        return DownServer(id)
    flavor, image, fault = _dict(body, "flavor"), body.get("image"), body.get("fault")
    return ServerRow(
        id=id,
        name=_text(body, "name"),
        status=status,
        task_state=_text_or_none(body, TASK_STATE),
        vm_state=_text(body, "OS-EXT-STS:vm_state"),
        size=Size(_number(flavor, "vcpus"), _number(flavor, "ram"), _number(flavor, "disk")),
        created_at=_time(body, "created"),
        updated_at=_time(body, "updated"),
        is_from_list=is_from_list,
        image_id=_text(image, "id") if isinstance(image, Mapping) else None,
        fault=_fault(fault) if isinstance(fault, Mapping) else None,
        is_locked=body.get("locked") is True,
        volume_ids=tuple(_text(volume, "id") for volume in body.get("os-extended-volumes:volumes_attached") or ()),
        tags=frozenset(body.get("tags") or ()),
        metadata=_texts(body.get("metadata")),
        zone=body.get("OS-EXT-AZ:availability_zone") or None,
    )


def action_from(body: Body) -> ActionEntry:
    """Return the entry of one action."""
    return ActionEntry(
        action=_text(body, "action"),
        request_id=_text(body, "request_id"),
        user_id=_text(body, "user_id"),
        started_at=_time(body, "start_time"),
        message=_text_or_none(body, "message"),
        events=tuple(_event(event) for event in body.get("events") or ()),
    )


def volume_from(body: Body) -> VolumeRow:
    """Return the volume of one row."""
    return VolumeRow(
        id=_text(body, "id"),
        name=_text_or_none(body, "name") or "",
        status=_text(body, "status"),
        size_gb=_number(body, "size"),
        created_at=_time(body, "created_at"),
        updated_at=_time(body, "updated_at" if body.get("updated_at") else "created_at"),
        attachments=tuple(
            Attachment(_text(found, "server_id"), _text_or_none(found, "device"))
            for found in _list(body, "attachments")
            if found.get("server_id") is not None  # a host may have it, too
        ),
        metadata=_texts(body.get("metadata")),
    )


def newest_message(rows: Sequence[Body]) -> str | None:
    """Return what Cinder last told its users about a thing; None if it told nothing."""
    newest = max(rows, key=lambda row: _time(row, "created_at"), default=None)
    return _text(newest, "user_message") if newest else None


def image_from(body: Body) -> ImageRow:
    """Return the image of one row."""
    return ImageRow(
        id=_text(body, "id"),
        name=_text_or_none(body, "name") or "",
        status=_text(body, "status"),
        size_bytes=body.get("size") or 0,
        created_at=_time(body, "created_at"),
        updated_at=_time(body, "updated_at"),
        server_id=body.get("instance_uuid"),
        base_image_id=body.get("base_image_ref") or None,
        marks=_marks(body),
        volume_snapshot_ids=_volume_snapshots(body.get("block_device_mapping")),
    )


def port_from(body: Body) -> PortRow:
    """Return the port of one row."""
    return PortRow(
        id=_text(body, "id"),
        name=_text(body, "name"),
        description=_text_or_none(body, "description") or "",
        status=_text(body, "status"),
        network_id=_text(body, "network_id"),
        mac_address=_text(body, "mac_address"),
        device_id=_text(body, "device_id") or None,
        ip_addresses=tuple(_text(address, "ip_address") for address in _list(body, "fixed_ips")),
    )


def created_at(server: Body) -> datetime:
    """Return when a server was made, of any row of a detailed list."""
    return _time(server, "created")


def flavor_from(body: Body) -> FlavorRow:
    """Return the flavor of one row."""
    size = Size(_number(body, "vcpus"), _number(body, "ram"), _number(body, "disk"))
    return FlavorRow(_text(body, "id"), _text(body, "name"), size, body.get("OS-FLV-DISABLED:disabled") is True)


def boot_image_from(body: Body) -> BootImageRow:
    """Return the image of one row, as something to boot from."""
    return BootImageRow(
        id=_uuid(body, "id"),
        name=_name(body),
        status=_text(body, "status"),
        visibility=_text(body, "visibility"),
        project_id=_text_or_none(body, "owner"),
        is_hidden=body.get("os_hidden") is True,
        disk_format=body.get("disk_format"),
        needs_bytes=max(body.get("size") or 0, body.get("virtual_size") or 0),
        min_disk_gb=_number(body, "min_disk"),
        created_at=_time(body, "created_at"),
        os_distro=body.get("os_distro"),
        os_version=body.get("os_version"),
        server_id=body.get("instance_uuid"),
        base_image_id=body.get("base_image_ref") or None,
        marks=_marks(body),
    )


def network_from(body: Body) -> NetworkRow:
    """Return the network of one row."""
    return NetworkRow(
        id=_uuid(body, "id"),
        name=_name(body),
        project_id=_text(body, "project_id"),
        is_up=body.get("admin_state_up") is True,
        is_shared=body.get("shared") is True,
        is_external=body.get("router:external") is True,
        created_at=body.get("created_at") or "",  # from an extension, as the router
    )


def subnet_from(body: Body) -> SubnetRow:
    """Return the subnet of one row."""
    return SubnetRow(
        id=_uuid(body, "id"),
        network_id=_uuid(body, "network_id"),
        ip_version=_number(body, "ip_version"),
        cidr=_text(body, "cidr"),
        gateway=_text_or_none(body, "gateway_ip"),
        services=tuple(body.get("service_types") or ()),
        created_at=body.get("created_at") or "",
    )


def security_group_from(body: Body) -> SecurityGroupRow:
    """Return the security group of one row."""
    return SecurityGroupRow(_uuid(body, "id"), _name(body), body.get("description") or "", _text(body, "project_id"))


def zone_from(body: Body) -> ZoneRow:
    """Return the availability zone of one row."""
    return ZoneRow(_text(body, "zoneName"), is_up=_dict(body, "zoneState").get("available") is True)


def listed(body: Body, name: str) -> list[Body]:
    """Return the rows of a list."""
    return _list(body, name)


def single(body: Body, name: str) -> Body:
    """Return the only row of an answer."""
    return _dict(body, name)


def _event(body: Body) -> ActionEvent:
    finished_at = _time(body, "finish_time") if body.get("finish_time") else None
    return ActionEvent(_text(body, "event"), _time(body, "start_time"), finished_at, _text_or_none(body, "result"))


def _fault(body: Body) -> Fault:
    return Fault(_number(body, "code"), _text(body, "message").strip(), _time(body, "created"))


def _volume_snapshots(mapping: Any) -> tuple[str, ...]:
    """Return the volume snapshots that the image's text of its block devices names."""
    try:
        devices: Iterable[Body] = json.loads(mapping) if isinstance(mapping, str) else mapping or ()
        found = [device.get("snapshot_id") for device in devices if device.get("source_type") == "snapshot"]
    except (ValueError, AttributeError, TypeError):
        message = "an image's block_device_mapping"
        raise UnreadableError(message) from None
    return tuple(id for id in found if isinstance(id, str))


def _marks(image: Body) -> Mapping[str, str]:
    return _texts({name: value for name, value in image.items() if name.startswith(MARK_PREFIX)})


def _texts(values: Any) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}


def _text(body: Body, name: str) -> str:
    return _typed(body, name, str)


def _text_or_none(body: Body, name: str) -> str | None:
    if isinstance(body, Mapping) and name in body and body[name] is None:
        return None
    return _typed(body, name, str)


def _name(body: Body) -> str:
    """Return the name; some things have none, and go by their id."""
    return _text_or_none(body, "name") or _text(body, "id")


def _uuid(body: Body, name: str) -> UUID:
    try:
        return UUID(_text(body, name))
    except ValueError:
        raise UnreadableError(f"`{name}` is no UUID") from None


def _number(body: Body, name: str) -> int:
    return _typed(body, name, int)


def _list(body: Body, name: str) -> list[Body]:
    return _typed(body, name, list)


def _dict(body: Body, name: str) -> Body:
    return _typed(body, name, dict)


def _typed(body: Body, name: str, type_: type[T]) -> T:
    value = body.get(name) if isinstance(body, Mapping) else None
    if not isinstance(value, type_):
        raise UnreadableError(f"`{name}` is not {'there' if value is None else 'of its type'}")
    return value


def _time(body: Body, name: str) -> datetime:
    try:
        at = datetime.fromisoformat(_text(body, name))
    except ValueError:
        raise UnreadableError(f"`{name}` is no time") from None
    # Nova writes some times with a zone and some without one; all are UTC.
    return at if at.tzinfo else at.replace(tzinfo=UTC)
