"""What others do in the cloud: the project's member, and the cloud's operator if OS_OPERATOR_CLOUD names a login."""

import os
import time
import warnings
from typing import Any, Final

import openstack
from openstack.connection import Connection

MICROVERSIONS: Final = {"compute": "2.95", "block_storage": "3.70"}
PAUSE: Final = 0.5  # seconds
TIMEOUT: Final = 120.0  # seconds for the cloud to carry out a change
Json = dict[str, Any]


class Others:
    """Somebody with another tool."""

    def __init__(self) -> None:
        self._member = openstack.connect()
        operator = os.environ.get("OS_OPERATOR_CLOUD")
        self._operator = openstack.connect(cloud=operator) if operator else None
        self._servers: list[str] = []

    @property
    def has_operator(self) -> bool:
        """Whether they are allowed what only operators are."""
        return self._operator is not None

    def close(self) -> None:
        """Delete the servers that were made, as far as they exist, and close the connections."""
        for server_id in self._servers:
            self._response(self._member, "DELETE", "compute", f"/servers/{server_id}", None)
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

    def settle(self, server_id: str, *statuses: str) -> Json:
        """Wait until the server has one of the statuses and is at rest, and return it."""
        end = time.monotonic() + TIMEOUT
        while True:
            server: Json = self._send(self._member, "GET", "compute", f"/servers/{server_id}", None)["server"]
            if server["status"] in statuses and server["OS-EXT-STS:task_state"] is None:
                return server
            assert time.monotonic() < end, f"{server_id} is {server['status']}, not {statuses}"
            time.sleep(PAUSE)

    def server_of(self, vm_id: str) -> str:
        """Return the id of the VM's server."""
        body = self._send(self._member, "GET", "compute", f"/servers/detail?tags=vm:{vm_id}", None)
        return next(str(row["id"]) for row in body["servers"] if f"vm:{vm_id}" in row["tags"])

    def volume_of(self, volume_id: str) -> str:
        """Return the cloud's id of a volume."""
        rows = self._send(self._member, "GET", "block_storage", "/volumes/detail", None)["volumes"]
        return next(str(row["id"]) for row in rows if row["metadata"].get("osvm_volume") == volume_id)

    def ports_of(self, server_id: str) -> list[str]:
        """Return the ids of the server's ports."""
        rows = self._send(self._member, "GET", "network", f"/ports?device_id={server_id}", None)["ports"]
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
