"""The real cloud while stories of it are recorded: its member, its operator, and hosts that can be killed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import openstack
from keystoneauth1.exceptions import ClientException

MICROVERSIONS: Final = {"compute": "2.95", "block_storage": "3.70", "network": None, "image": None, "identity": None}
HEADERS: Final = ("Date", "X-Openstack-Request-Id", "Retry-After", "Content-Type", "Location")
PAUSE: Final = 0.1
TIMEOUT: Final = (3, 120)  # a list of a cell that is down takes a minute
Json = dict[str, Any]


class Answer:
    """What the cloud answered."""

    def __init__(self, status: int, headers: Mapping[str, str], text: str) -> None:
        self.status = status
        self.headers = {name: headers[name] for name in HEADERS if name in headers}
        try:
            self.body: Any = json.loads(text) if text else None
        except ValueError:
            self.body = text

    @property
    def request_id(self) -> str:
        """The cloud's id of the request; the action entry has it, too."""
        return self.headers["X-Openstack-Request-Id"]


class Cloud:
    """The real cloud as the project's member and as its operator, who is somebody else."""

    def __init__(self) -> None:
        self._member = openstack.connect(cloud="testcloud")
        self._operator = openstack.connect(cloud="testcloud-admin")
        self.home = Path(os.environ["TEST_CLOUD_HOME"])
        flavors = self.get("compute", "/flavors").body["flavors"]
        self.flavors = {flavor["name"]: flavor["id"] for flavor in flavors}
        self.image = next(i["id"] for i in self.get("image", "/images").body["images"] if i["name"] == "cirros-dummy")
        self.network = self.get("network", "/networks?name=private").body["networks"][0]["id"]
        self.project = self._member.session.get_project_id()

    def send(self, method: str, service: str, path: str, body: Json | None = None, *, operator: bool = False) -> Answer:
        """Send one request, once."""
        proxy = getattr(self._operator if operator else self._member, service)
        arguments: Json = {"connect_retries": 0, "status_code_retries": 0, "timeout": TIMEOUT}
        if MICROVERSIONS[service]:
            arguments["microversion"] = MICROVERSIONS[service]
        if body is not None:
            arguments["json"] = body
        response = getattr(proxy, method.lower())(path, **arguments)
        return Answer(response.status_code, response.headers, response.text)

    def get(self, service: str, path: str) -> Answer:
        """Read something as the member."""
        return self.send("GET", service, path)

    def server(self, name: str, flavor: str = "m1.tiny", **more: Any) -> Json:
        """Return the body of a POST that creates a server."""
        server = {"name": name, "flavorRef": self.flavors[flavor], "imageRef": self.image}
        return {"server": server | {"networks": [{"uuid": self.network}]} | more}

    def new_server(self, name: str, **more: Any) -> str:
        """Create a server, wait until it is ACTIVE, and return its id."""
        id: str = self.send("POST", "compute", "/servers", self.server(name, **more)).body["server"]["id"]
        self.settle(id)
        return id

    def settle(self, server_id: str) -> Json:
        """Wait until the cloud is done with the server, and return it."""
        while True:
            server: Json = self.get("compute", f"/servers/{server_id}").body["server"]
            if server["status"] == "ERROR":
                message = f"{server_id} is in ERROR: {server.get('fault')}"
                raise RuntimeError(message)
            if server["status"] != "BUILD" and server["OS-EXT-STS:task_state"] is None:
                return server
            time.sleep(PAUSE)

    def wait(self, what: str, is_so: Callable[[], object], seconds: float = 60) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                raise TimeoutError(what)
            time.sleep(PAUSE)

    def wait_for_task(self, server_id: str, *tasks: str) -> None:
        """Wait until the server is in one of these task states."""
        path = f"/servers/{server_id}"
        self.wait(str(tasks), lambda: self.get("compute", path).body["server"]["OS-EXT-STS:task_state"] in tasks)

    def host_of(self, server_id: str) -> "Daemon":
        """Return the nova-compute that has the server."""
        server = self.send("GET", "compute", f"/servers/{server_id}", operator=True).body["server"]
        return Daemon(self.home, f"nova-{server['OS-EXT-SRV-ATTR:host']}")

    def wait_for_hosts(self) -> None:
        """Wait until all nova-computes have reported since now."""
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")

        def have_reported() -> bool:
            path = "/os-services?binary=nova-compute"
            services = self.send("GET", "compute", path, operator=True).body["services"]
            return all((service["updated_at"] or "") > since for service in services)

        self.wait("hosts", have_reported)

    def is_answering(self, service: str) -> bool:
        """Return whether the service answers."""
        try:
            return self.get(service, "/flavors").status < 500
        except ClientException:
            return False


class Daemon:
    """A process of the cloud, which can be killed and started again."""

    def __init__(self, home: Path, name: str) -> None:
        self._pid_file = home / "run" / f"{name}.pid"
        self._log = home / "log" / f"{name}.log"
        self._pid = int(self._pid_file.read_text())
        self._command = Path(f"/proc/{self._pid}/cmdline").read_bytes().decode().split("\0")[:-1]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Kill the process at once, as a host that loses its power, and start it again at the end."""
        os.killpg(self._pid, signal.SIGKILL)
        try:
            yield
        finally:
            with self._log.open("ab") as log:
                process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
            self._pid_file.write_text(str(process.pid))
