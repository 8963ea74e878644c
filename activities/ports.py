"""Which port belongs to which interface."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from activities.backends.resources import Port
from domain.data.models import Interface


def by_interface(ports: Collection[Port], interfaces: Collection[Interface | Row[Any]]) -> Mapping[UUID, Port]:
    """Return the ports of these interfaces, by the interface's id.

    The port has the cloud's id that the interface's row keeps. While the row keeps none, it is the port with the
    interface's mark. Ports that the cloud made together with the server have no mark: each belongs to an interface of
    the VM in the port's network, and it does not matter to which.
    """
    by_cloud_id = {port.cloud_id: port for port in ports}
    found = {row.id: by_cloud_id.pop(row.cloud_id) for row in interfaces if row.cloud_id in by_cloud_id}
    marked = {port.id: port for port in by_cloud_id.values() if port.id is not None}
    unmarked: dict[tuple[UUID, UUID], list[Port]] = {}
    for port in by_cloud_id.values():
        if port.id is None:
            unmarked.setdefault((port.vm_id, port.network_id), []).append(port)
    for row in interfaces:
        in_network = unmarked.get((row.vm_id, row.network_id))
        if row.cloud_id is None and row.id in marked:
            found[row.id] = marked[row.id]
        elif row.cloud_id is None and in_network:
            found[row.id] = in_network.pop()
    return found
