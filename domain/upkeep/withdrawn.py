"""What keeps a row of the catalogue that the cloud no longer offers: everything that could still come to need it.

Security groups and zones are in nobody's way here: a VM's row has its own copy of their names and ids. Nor are the
parameters of operations, except those of a resize: a retry refuses what is not offered.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, cast, exists, func, or_

from domain.data.cloud import FoundServer
from domain.data.models import VM, Flavor, Image, Interface, Network, Operation, Snapshot, Volume
from domain.data.placement import AvailabilityZone, SecurityGroup
from domain.rules.states import RESIZE_DECISIONS, Action, Status

Offer = Flavor | Image | Network | SecurityGroup | AvailabilityZone


def _of_no_open_resize() -> ColumnElement[bool]:
    """Whether no VM could get this flavor, or get it back, from an operation."""
    parameters = (Operation.input["flavor_id"].astext, Operation.input["previous_flavor_id"].astext)
    id = cast(Flavor.id, Text)
    return ~exists().where(
        or_(VM.status == Status.VERIFY_RESIZE, VM.task_state.is_not(None)),
        Operation.vm_id == VM.id,
        Operation.action.in_((Action.RESIZE, *RESIZE_DECISIONS)),
        or_(*(parameter == id for parameter in parameters)),
    )


def _of_no_found_server() -> ColumnElement[bool]:
    """Whether no server that an admin can adopt is in this network."""
    port: ColumnElement[Any] = func.jsonb_build_array(func.jsonb_build_object("network_id", cast(Network.id, Text)))
    return ~exists().where(FoundServer.interfaces.contains(port))


UNUSED: Final[Mapping[type[Offer], tuple[ColumnElement[bool], ...]]] = {
    Flavor: (
        Flavor.is_available.is_(False),
        ~exists().where(VM.flavor_id == Flavor.id),
        ~exists().where(Snapshot.flavor_id == Flavor.id),
        _of_no_open_resize(),
    ),
    Image: (
        Image.is_available.is_(False),
        ~exists().where(VM.image_id == Image.id),
        ~exists().where(Snapshot.image_id == Image.id),
        ~exists().where(Volume.image_id == Image.id),
        ~exists().where(FoundServer.image_id == Image.id),
    ),
    Network: (
        Network.is_available.is_(False),
        ~exists().where(Interface.network_id == Network.id),
        _of_no_found_server(),
    ),
    SecurityGroup: (SecurityGroup.is_available.is_(False),),
    AvailabilityZone: (AvailabilityZone.is_available.is_(False),),
}
"""Whether a row of each table is not offered, and nothing needs it.

The version before does not empty `withdrawn_at` of what comes back. So that alone does not say that a row is withdrawn.
"""
