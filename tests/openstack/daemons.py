"""The daemons of the OpenStack on this machine. Drills kill them, and start them again as they were.

The folder OSPROBE_HOME has a file `run/NAME.pid` and a file `log/NAME.log` for each daemon, and `etc/clouds.yaml`.
"""

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Self

import openstack
from openstack.connection import Connection

HOME_VARIABLE: Final = "OSPROBE_HOME"
MEMBER, OPERATOR = "osprobe", "osprobe-admin"
"""The clouds of clouds.yaml: the login of this service, and that of the cloud's operator."""
COMPUTES: Final = ("nova-compute1", "nova-compute2")
NEUTRON: Final = "neutron-server"
PORTS: Final = {"keystone": 5000, "nova-api": 8774, NEUTRON: 9696, "rabbitmq": 15673}
START_TIME: Final = 180.0  # seconds


def home() -> Path:
    """Return the folder of the cloud."""
    return Path(os.environ[HOME_VARIABLE])


def settings() -> dict[str, str]:
    """Return the environment variables with which this service uses the cloud."""
    configuration = os.environ.get("OS_CLIENT_CONFIG_FILE") or str(home() / "etc/clouds.yaml")
    os.environ["OS_CLIENT_CONFIG_FILE"] = configuration  # for this process, too
    return {
        "COMPUTE_BACKEND": "openstack",
        "OS_CLOUD": os.environ.get("OS_CLOUD", MEMBER),
        "OS_CLIENT_CONFIG_FILE": configuration,
    }


def connect(*, operator: bool = False) -> Connection:
    """Log in as this service does, or as the operator."""
    cloud = OPERATOR if operator else settings()["OS_CLOUD"]
    settings()
    return openstack.connect(cloud=cloud)


class Daemon:
    """A daemon with all of its processes, which form a session of their own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pid_file = home() / "run" / f"{name}.pid"
        self._log = home() / "log" / f"{name}.log"
        self._environment = dict(os.environ)
        if name == NEUTRON:
            # It writes its title over its command line and its environment.
            self._command = [str(home() / "venv/bin" / name), "--config-file", str(home() / "etc/neutron/neutron.conf")]
        else:
            process = Path(f"/proc/{self._pid}")
            self._command = process.joinpath("cmdline").read_bytes().decode().split("\0")[:-1]
            variables = process.joinpath("environ").read_bytes().decode().split("\0")[:-1]
            self._environment = dict(variable.split("=", 1) for variable in variables)
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def all(cls, *names: str) -> list[Self]:
        """Return these daemons."""
        return [cls(name) for name in names]

    def kill(self) -> None:
        """Send SIGKILL to all processes of the daemon."""
        for pid in _session(self._pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._child:
            self._child.wait()
        while _session(self._pid):
            time.sleep(0.02)

    def start(self) -> None:
        """Start the daemon again, with the command and the environment that it had."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid_file.write_text(str(self._child.pid))

    async def until_serving(self) -> None:
        """Wait until the daemon takes connections, if it has a port."""
        port = PORTS.get(self.name)
        async with asyncio.timeout(START_TIME):
            while port is not None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.2)
                else:
                    writer.close()
                    return

    @property
    def _pid(self) -> int:
        return int(self._pid_file.read_text())


def _session(leader: int) -> list[int]:
    """Return the running processes of a session."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = process.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(session) == leader and state != "Z":
            pids.append(int(process.name))
    return pids
