"""Processes of the test cloud. Each has a session of its own, so that its children end with it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.openstack.cloud.layout import LOG, LOOPBACK, RUN

PAUSE: Final = 0.1
_children: Final[dict[str, subprocess.Popen[bytes]]] = {}


@dataclass(frozen=True)
class Daemon:
    """A process that listens on a port, or on none. Its process id is in a file, so that other programs find it."""

    name: str
    command: tuple[str, ...]
    port: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        """The process id, if the process lives."""
        if self.name in _children:
            _children[self.name].poll()  # a child that has ended has its id until its parent asks
        try:
            pid = int((RUN / f"{self.name}.pid").read_text())
            # Another process may have the id by now, but hardly one that leads a session.
            return pid if os.getsid(pid) == pid else None
        except (OSError, ValueError):
            return None

    def start(self) -> None:
        """Start the process if it does not live."""
        if self.pid is not None:
            return
        with (LOG / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _children[self.name] = process
        (RUN / f"{self.name}.pid").write_text(str(process.pid))

    def wait(self, seconds: float = 90) -> None:
        """Wait until the process listens on its port."""
        end = time.monotonic() + seconds
        while not self.is_listening():
            if self.pid is None or time.monotonic() > end:
                log = (LOG / f"{self.name}.log").read_text(errors="replace").splitlines()
                reason = "has ended" if self.pid is None else f"does not listen on port {self.port}"
                raise SystemExit("\n".join([*log[-20:], f"{self.name} {reason}"]))
            time.sleep(PAUSE)

    def is_listening(self) -> bool:
        """Return whether the process takes connections."""
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port or 0), timeout=1):
            return True
        return False

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process and its children, as when a host loses its power."""
        if (pid := self.pid) is not None:
            os.killpg(pid, number)
            while number is signal.SIGKILL and self.pid is not None:
                time.sleep(PAUSE)

    def stop(self, seconds: float = 15) -> None:
        """Ask the process to end, wait for it, and then end what is left of it."""
        if (pid := self.pid) is None:
            return
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + seconds
        while self.pid is not None and time.monotonic() < end:
            time.sleep(PAUSE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        (RUN / f"{self.name}.pid").unlink(missing_ok=True)
