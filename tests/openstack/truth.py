"""Compares the database of the service with everything that its project has in Nova, Neutron, Cinder and Glance."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openstack.connection import Connection

from tests.support.truth import Database

Things = Mapping[str, dict[str, Any]]

VMS = """
SELECT vms.id, vms.cloud_id, status, launched_at, vcpus, ram_mb AS ram, disk_gb AS disk, task_state, attaching FROM vms
JOIN flavors ON flavors.id = vms.flavor_id WHERE status <> 'DELETED'"""
INTERFACES = """
SELECT interfaces.*, vms.cloud_id AS server_id, vms.status AS vm_status FROM interfaces
JOIN vms ON vms.id = vm_id"""
VOLUMES = """
SELECT volumes.*, attachments.device, vms.cloud_id AS server_id FROM volumes
LEFT JOIN attachments ON attachments.volume_id = volumes.id
LEFT JOIN vms ON vms.id = attachments.vm_id WHERE volumes.status <> 'DELETED'"""
SNAPSHOTS = "SELECT * FROM snapshots WHERE status <> 'DELETED'"


@dataclass(frozen=True)
class Project:
    """What a project has, by the cloud's ids."""

    servers: Things
    ports: Things
    volumes: Things
    images: Things

    def without(self, other: "Project") -> "Project":
        """Return what it has and another one has not."""
        mine, others = vars(self), vars(other)
        return Project(**{kind: {id: mine[kind][id] for id in mine[kind].keys() - others[kind]} for kind in mine})

    def counts(self) -> dict[str, int]:
        """Return how many things there are of each kind."""
        return {kind: len(things) for kind, things in vars(self).items()}


def read_project(member: Connection) -> Project:
    """Read everything that the member's project has, in one page of each kind: no drill makes a thousand things."""
    project = member.session.get_project_id()
    compute, volume = {"microversion": "2.95"}, {"microversion": "3.70"}
    return Project(
        _listed(member.compute, "/servers/detail", "servers", **compute),
        _listed(member.network, f"/ports?project_id={project}", "ports"),
        _listed(member.block_storage, "/volumes/detail", "volumes", **volume),
        _listed(member.image, f"/images?owner={project}&limit=1000", "images"),
    )


def _listed(proxy: Any, path: str, name: str, **options: str) -> Things:
    answer = proxy.get(path, **options)
    answer.raise_for_status()
    return {row["id"]: row for row in answer.json()[name]}


async def differences(database: Database, project: Project) -> list[str]:
    """Return how the project differs from the database; for a time at which no operation is running.

    A row in ERROR asks a person to look. It may differ from its thing, but not from another one.
    """
    vms, interfaces = await database.sql(VMS), await database.sql(INTERFACES)
    volumes, snapshots = await database.sql(VOLUMES), await database.sql(SNAPSHOTS)
    found = [f"busy VM: {dict(vm)}" for vm in vms if vm["task_state"] or vm["attaching"]]
    for vm in vms:
        found += _compare(f"VM {vm['id']}", *_vm(vm, project.servers.get(vm["cloud_id"])))
    for row in interfaces:
        found += _compare(f"interface {row['id']}", *_interface(row, project.ports.get(row["cloud_id"])))
    for row in volumes:
        found += _compare(f"volume {row['id']}", *_volume(row, project.volumes.get(row["cloud_id"])))
    for row in snapshots:
        status = _status(project.images.get(row["cloud_id"]))
        expected = status if row["status"] == "ERROR" else "active"
        found += _compare(f"snapshot {row['id']}", row["status"] in {"AVAILABLE", "ERROR"} and expected, status)
    known = (vms, interfaces, volumes, snapshots)
    for kind, rows in zip(("servers", "ports", "volumes", "images"), known, strict=True):
        strangers = vars(project)[kind].keys() - {row["cloud_id"] for row in rows}
        found += [f"no row for one of the {kind}: {vars(project)[kind][id]}" for id in strangers]
    return found


def _compare(what: str, expected: object, actual: object) -> Iterator[str]:
    if expected != actual:
        yield f"{what} should be {expected} and is {actual}"


def _status(thing: Mapping[str, Any] | None) -> str | None:
    return thing["status"] if thing else None


def _vm(row: Any, server: Mapping[str, Any] | None) -> tuple[object, object]:
    if row["status"] == "ERROR":
        # A build that failed leaves nothing.
        return (None, server) if row["launched_at"] is None else (None, None)
    if server is None:
        return row["status"], None
    size = tuple(row[name] for name in ("vcpus", "ram", "disk"))
    shown = tuple(server["flavor"][name] for name in ("vcpus", "ram", "disk"))
    return (row["status"], None, size), (server["status"], server["OS-EXT-STS:task_state"], shown)


def _interface(row: Any, port: Mapping[str, Any] | None) -> tuple[object, object]:
    if row["vm_status"] == "ERROR":
        return None, None
    if port is None:
        return row["status"], None
    addresses = [fixed["ip_address"] for fixed in port["fixed_ips"]]
    shown = (port["device_id"], port["mac_address"], row["ip_address"] in addresses)
    return (row["server_id"], row["mac_address"], True), shown


def _volume(row: Any, volume: Mapping[str, Any] | None) -> tuple[object, object]:
    if row["status"] == "ERROR":
        return None, None
    if volume is None:
        return row["status"], None
    shown = [(attachment["server_id"], attachment["device"]) for attachment in volume["attachments"]]
    is_attached = row["status"] == "IN_USE"
    expected = [(row["server_id"], row["device"])] if is_attached else []
    return ("in-use" if is_attached else "available", row["size_gb"], expected), (
        volume["status"],
        volume["size"],
        shown,
    )
