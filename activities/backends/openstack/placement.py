"""Where servers and ports are put: the security groups and availability zones of the cloud."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from activities.backends.catalogue import SecurityGroupOffer
from activities.backends.openstack import bodies
from activities.backends.openstack.bodies import Body
from activities.backends.openstack.errors import CloudError
from activities.backends.openstack.reading import Query
from activities.backends.protocol import BackendError
from activities.backends.resources import PortSpec, ServerSpec

# Without them Neutron sends all rules of all groups.
GROUP_FIELDS: Final[Query] = tuple(("fields", name) for name in ("id", "name", "description", "project_id"))


def group_offers(rows: Iterable[Body], project_id: str) -> Sequence[SecurityGroupOffer]:
    """Return the project's own security groups. Operators see those of all projects, and Nova takes no others."""
    own = [group for row in rows if (group := bodies.security_group_from(row)).project_id == project_id]
    return [SecurityGroupOffer(group.id, group.name, group.description) for group in own]


def zone_offers(rows: Iterable[Body]) -> Sequence[str]:
    """Return the names of the availability zones in which a host is up."""
    return [zone.name for zone in map(bodies.zone_from, rows) if zone.is_up]


def of_server(spec: ServerSpec) -> Mapping[str, Any]:
    """Return the fields of a new server that say where it is to be.

    Nova gives the groups to the ports that it makes, and ignores them for ports that exist. So those have them already.
    """
    fields: dict[str, Any] = {}
    if spec.availability_zone:
        fields["availability_zone"] = spec.availability_zone
    if spec.security_groups:
        fields["security_groups"] = [{"name": id} for id in spec.security_groups]  # Nova takes an id as a name
    return fields


def explained(error: CloudError) -> BackendError:
    """Return the error of a port in the words of our API, if it is about a wanted address, or else as it is."""
    if error.code != "not_supported_by_cloud":
        return error
    # Neutron's own words are the rule of its policy.
    message = f"This cloud does not let us choose the address in this network; ask for none. {error}"
    return BackendError(error.code, message, retryable=False)


def of_port(wanted: PortSpec) -> Mapping[str, Any]:
    """Return the field of a new port that has its security groups. Without it, Neutron gives it the default group."""
    return {"security_groups": list(wanted.security_groups)} if wanted.security_groups else {}
