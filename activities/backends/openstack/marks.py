"""Our marks on what we make in the cloud. Without the cloud's id, a thing is found by them.

A server has tags, because lists filter by them, and metadata for people. A volume has metadata. The image of a snapshot
has properties, which begin as metadata of the call that saves it. A port has its name and its description: Neutron
drops the tags of a new port.

Anybody who may write to the project can change marks, and one mark may be on two things. So a recorded id of the cloud
decides first.
"""

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from activities.backends.openstack.records import BootImageRow, ImageRow, PortRow, ServerRow, VolumeRow
from activities.backends.protocol import Token

VM: Final = "osvm_vm"
VOLUME: Final = "osvm_volume"
SNAPSHOT: Final = "osvm_snapshot"
OPERATION: Final = "osvm_operation"
STEP: Final = "osvm_step"
SERVER: Final = "osvm_server"
BASE: Final = "osvm_base"

_PORT_NAME: Final = re.compile(r"osvm-([0-9a-f-]{36})-([0-9]+)")
_PORT_DESCRIPTION: Final = re.compile(r"osvm vm:([0-9a-f-]{36})")


def vm_tag(vm_id: UUID) -> str:
    """Return the tag of the VM's server."""
    return f"vm:{vm_id}"


def operation_tag(operation_id: UUID) -> str:
    """Return the tag of the server that the operation has made."""
    return f"op:{operation_id}"


def of_server(vm_id: UUID, token: Token) -> Mapping[str, object]:
    """Return the fields of a new server that are its marks."""
    return {
        "tags": [vm_tag(vm_id), operation_tag(token.operation_id)],
        "metadata": {VM: str(vm_id), **_of_call(token)},
    }


def of_volume(volume_id: UUID, token: Token) -> Mapping[str, str]:
    """Return the metadata of a new volume."""
    return {VOLUME: str(volume_id), **_of_call(token)}


def of_image(snapshot_id: UUID, vm_id: UUID, server_id: str, base_id: str | None, token: Token) -> Mapping[str, str]:
    """Return the metadata of a new image of a server.

    It names the server and the image that this was built from, because an image that somebody makes of a server has
    all the properties of that server's image. So it would have these marks too if the server was built from this one.
    """
    base = {BASE: base_id} if base_id else {}  # a volume-backed server has none
    return {SNAPSHOT: str(snapshot_id), VM: str(vm_id), SERVER: server_id, **base, **_of_call(token)}


def of_port(interface_id: UUID, vm_id: UUID, attempt: int) -> Mapping[str, str]:
    """Return the name and the description of a new port. An attempt never uses the port of another one."""
    return {"name": port_name(interface_id, attempt), "description": port_description(vm_id)}


def port_name(interface_id: UUID, attempt: int) -> str:
    """Return the name of the port that this attempt makes."""
    return f"osvm-{interface_id}-{attempt}"


def port_description(vm_id: UUID) -> str:
    """Return the description of all ports that we make for the VM."""
    return f"osvm vm:{vm_id}"


def vm_of(server: ServerRow) -> UUID | None:
    """Return the VM that the server is marked with. Its tag decides, and the metadata if somebody removed the tags."""
    tags = [_uuid(tag.removeprefix("vm:")) for tag in sorted(server.tags) if tag.startswith("vm:")]
    return next((id for id in tags if id), None) or _uuid(server.metadata.get(VM))


def volume_of(volume: VolumeRow) -> UUID | None:
    """Return the id of ours that the volume is marked with."""
    return _uuid(volume.metadata.get(VOLUME))


def snapshot_of(image: ImageRow | BootImageRow) -> UUID | None:
    """Return the snapshot that the image is marked with; None if it only inherited the mark."""
    server_id, base_id = image.marks.get(SERVER), image.marks.get(BASE)
    # A volume-backed server's image names neither.
    is_of_server = server_id is not None and image.server_id in {None, server_id}
    is_inherited = base_id is not None and image.base_image_id not in {None, base_id}
    return _uuid(image.marks.get(SNAPSHOT)) if is_of_server and not is_inherited else None


def operation_of(thing: ServerRow | VolumeRow | ImageRow) -> UUID | None:
    """Return the operation that made the thing, by its mark."""
    match thing:
        case ServerRow():
            tags = [_uuid(tag.removeprefix("op:")) for tag in sorted(thing.tags) if tag.startswith("op:")]
            return next((id for id in tags if id), None) or _uuid(thing.metadata.get(OPERATION))
        case VolumeRow():
            return _uuid(thing.metadata.get(OPERATION))
        case ImageRow():
            return _uuid(thing.marks.get(OPERATION))


def interface_of(port: PortRow) -> UUID | None:
    """Return the interface that the port is marked with."""
    found = _PORT_NAME.fullmatch(port.name)
    return _uuid(found[1]) if found else None


def vm_of_port(port: PortRow) -> UUID | None:
    """Return the VM that the port was made for, plugged in or not."""
    found = _PORT_DESCRIPTION.fullmatch(port.description)
    return _uuid(found[1]) if found else None


def _of_call(token: Token) -> Mapping[str, str]:
    return {OPERATION: str(token.operation_id), STEP: token.step}


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
