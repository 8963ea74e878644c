"""What others do in the cloud: the project's member, and the cloud's operator if OS_OPERATOR_CLOUD names a login."""

import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import openstack
from openstack.connection import Connection

MICROVERSIONS: Final = {"compute": "2.95", "block_storage": "3.70"}
PAUSE: Final = 0.5  # seconds
TIMEOUT: Final = 120.0  # seconds for the cloud to carry out a change
Json = dict[str, Any]
T = TypeVar("T")


def _until(read: Callable[[], T | None]) -> T:
    """Call `read` until its result is true, and return that; fail after TIMEOUT."""
    end = time.monotonic() + TIMEOUT
    while not (result := read()):
        assert time.monotonic() < end, "the cloud has not carried it out"
        time.sleep(PAUSE)
    return result


class Others:
    """Somebody with another tool."""

    def __init__(self) -> None:
        self._member = openstack.connect()
        operator = os.environ.get("OS_OPERATOR_CLOUD")
        self._operator = openstack.connect(cloud=operator) if operator else None
        self._servers: list[str] = []
        self._backups: list[str] = []
        self._volumes: list[str] = []

    @property
    def has_operator(self) -> bool:
        """Whether they are allowed what only operators are."""
        return self._operator is not None

    def close(self) -> None:
        """Delete what was made, as far as it exists, and close the connections."""
        paths = [("compute", f"/servers/{id}") for id in self._servers]
        paths += [("block_storage", f"/backups/{id}") for id in self._backups]
        for service, path in paths + [("block_storage", f"/volumes/{id}") for id in self._volumes]:
            _until(partial(self._is_deleted, service, path))
        for connection in filter(None, (self._member, self._operator)):
            connection.close()

    def send(self, method: str, service: str, path: str, body: Json | None = None) -> Any:
        """Send a request, as the operator if there is one, and return the answer's body."""
        return self._send(self._operator or self._member, method, service, path, body)

    def make(self, service: str, path: str, body: Json) -> Any:
        """Make something in the project, and return the answer's body."""
        return self._send(self._member, "POST", service, path, body)

    def make_server(self, server: Json) -> str:
        """Make a server, wait until it is ACTIVE, and return its id."""
        id = str(self.make("compute", "/servers", {"server": server})["server"]["id"])
        self._servers.append(id)
        self.settle(id, "ACTIVE")
        return id

    def act(self, server_id: str, **action: Any) -> None:
        """Begin an action of a server."""
        self.send("POST", "compute", f"/servers/{server_id}/action", action)

    def volume(self, cloud_id: str) -> Json:
        """Return a volume as the cloud has it."""
        volume: Json = self._get("block_storage", f"/volumes/{cloud_id}")["volume"]
        return volume

    def back_up(self, cloud_id: str) -> str:
        """Make a backup of a volume, and return its id."""
        backup = {"volume_id": cloud_id, "name": "drill", "force": True}
        id = str(self.make("block_storage", "/backups", {"backup": backup})["backup"]["id"])
        self._backups.append(id)
        _until(lambda: self._get("block_storage", f"/backups/{id}")["backup"]["status"] == "available")
        return id

    def restore(self, backup_id: str) -> str:
        """Restore a backup into a new volume, and return the cloud's id of the volume."""
        restore = self.make("block_storage", f"/backups/{backup_id}/restore", {"restore": {"name": "drill-restored"}})
        id = str(restore["restore"]["volume_id"])
        self._volumes.append(id)
        _until(lambda: self.volume(id)["status"] == "available")
        return id

    def settle(self, server_id: str, *statuses: str) -> Json:
        """Wait until the server has one of the statuses and is at rest, and return it."""

        def settled() -> Json | None:
            server: Json = self._get("compute", f"/servers/{server_id}")["server"]
            return server if server["status"] in statuses and server["OS-EXT-STS:task_state"] is None else None

        return _until(settled)

    def server_of(self, vm_id: str) -> str:
        """Return the id of the VM's server."""
        body = self._get("compute", f"/servers/detail?tags=vm:{vm_id}")
        return next(str(row["id"]) for row in body["servers"] if f"vm:{vm_id}" in row["tags"])

    def volume_of(self, volume_id: str) -> str:
        """Return the cloud's id of a volume."""
        rows = self._get("block_storage", "/volumes/detail")["volumes"]
        return next(str(row["id"]) for row in rows if row["metadata"].get("osvm_volume") == volume_id)

    def ports_of(self, server_id: str) -> list[str]:
        """Return the ids of the server's ports."""
        rows = self._get("network", f"/ports?device_id={server_id}")["ports"]
        return [row["id"] for row in rows]

    def make_image(self, name: str) -> str:
        """Make an image from which one can rebuild, and return its id."""
        image = {"name": name, "disk_format": "raw", "container_format": "bare"}
        id = str(self.make("image", "/images", image)["id"])
        content = {"data": b"\0" * 1024, "headers": {"Content-Type": "application/octet-stream"}}
        self._member.image.put(f"/images/{id}/file", **content).raise_for_status()
        return id

    def exists(self, service: str, path: str) -> bool:
        """Return whether the project has it."""
        return bool(self._response(self._member, "GET", service, path, None).status_code < 400)

    def _is_deleted(self, service: str, path: str) -> bool:
        """Ask the cloud to delete something; False if it is in use. A volume is, until its server is gone."""
        return self._response(self._member, "DELETE", service, path, None).status_code not in {400, 409}

    def _get(self, service: str, path: str) -> Any:
        return self._send(self._member, "GET", service, path, None)

    def _send(self, connection: Connection, method: str, service: str, path: str, body: Json | None) -> Any:
        response = self._response(connection, method, service, path, body)
        assert response.status_code < 400, f"{method} {path}: {response.text}"
        return response.json() if response.content and "json" in response.headers.get("Content-Type", "") else None

    @staticmethod
    def _response(connection: Connection, method: str, service: str, path: str, body: Json | None) -> Any:
        options = {"json": body} if body is not None else {}
        with warnings.catch_warnings():  # the SDK warns of parameters that it passes to itself
            warnings.simplefilter("ignore")
            send = getattr(getattr(connection, service), method.lower())
            return send(path, microversion=MICROVERSIONS.get(service), **options)
