"""What the cloud has with our marks, read without the product: through the SDK's plain requests, row by row."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import openstack
from keystoneauth1.adapter import Adapter


class OurThings:
    """The cloud's servers, volumes, images and ports of one VM or volume, by our ids."""

    def __init__(self) -> None:
        self._member = openstack.connect()

    def close(self) -> None:
        """Close the connections."""
        self._member.close()

    def servers(self, vm_id: str) -> list[str]:
        """The statuses of the VM's servers. Nova may list one that it has deleted for a moment, as DELETED."""
        rows = self._rows("compute", f"/servers/detail?tags=vm:{vm_id}", "servers")
        return [row["status"] for row in rows if f"vm:{vm_id}" in row["tags"] and row["status"] != "DELETED"]

    def server_id(self, vm_id: str) -> str:
        """The cloud's id of the VM's one server."""
        rows = self._rows("compute", f"/servers/detail?tags=vm:{vm_id}", "servers")
        (id,) = [row["id"] for row in rows]
        return str(id)

    def ports(self, server_id: str) -> list[str]:
        """The addresses of a server's ports."""
        rows = self._rows("network", f"/ports?device_id={server_id}", "ports")
        return [address["ip_address"] for row in rows for address in row["fixed_ips"]]

    def volumes(self, volume_id: str) -> list[str]:
        """The statuses of the volumes with this mark."""
        wanted = json.dumps({"osvm_volume": volume_id})
        rows = self._rows("block_storage", f"/volumes/detail?metadata={wanted}", "volumes")
        return [row["status"] for row in rows if row["metadata"].get("osvm_volume") == volume_id]

    def images(self, snapshot_id: str) -> list[str]:
        """The statuses of the images with this mark."""
        return [row["status"] for row in self._rows("image", f"/images?osvm_snapshot={snapshot_id}", "images")]

    def all_marks(self) -> set[str]:
        """The ids of the VMs, volumes, snapshots and interfaces that anything in the project is marked with."""
        return {str(mark) for mark in self._marks() if mark}

    def _marks(self) -> Iterator[Any]:
        for row in self._rows("compute", "/servers/detail", "servers"):
            yield row["metadata"].get("osvm_vm")
        for row in self._rows("block_storage", "/volumes/detail", "volumes"):
            yield row["metadata"].get("osvm_volume")
        for row in self._rows("image", "/images?visibility=private", "images"):
            yield row.get("osvm_snapshot")
        for row in self._rows("network", "/ports", "ports"):
            yield row["name"] if row["name"].startswith("osvm-") else None

    def _rows(self, service: str, path: str, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._get(service, path)[name]
        return rows

    def _get(self, service: str, path: str) -> Any:
        version = {"compute": "2.95", "block_storage": "3.70"}.get(service)
        with warnings.catch_warnings():  # the SDK warns of parameters that it passes to itself
            warnings.simplefilter("ignore")
            proxy: Adapter = getattr(self._member, service)
            return proxy.get(path, microversion=version).json()
