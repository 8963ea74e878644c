"""The programs of `make up`: each is restarted whenever it ends, and dies with the supervisor."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
RESTART_DELAY, PROBE_INTERVAL, PROBE_TIMEOUT = 0.25, 0.05, 5  # seconds
# The start is given up if a program has ended so often, or is not ready after so many seconds. After the start every
# program is restarted for ever.
START_ATTEMPTS, START_TIMEOUT = 3, 120
SETTLED_AFTER = 2  # seconds: a program that cannot run has ended by then
LOG_TAIL = 15  # lines
PRCTL, PR_SET_PDEATHSIG = getattr(ctypes.CDLL(None), "prctl", None), 1  # Linux only


class StartError(Exception):
    """The stack cannot start; the message says why and what to do."""


class StopRequested(Exception):  # noqa: N818 - no error
    """A stop signal is pending, so the program that was waited for is gone."""


def say(line: str) -> None:
    """Print a line. If the terminal or the reader of a pipe is gone, the stack continues without it."""
    try:
        print(line, flush=True)
    except OSError:
        # Python keeps the line, and the exit would fail because it cannot be written then either.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


async def spawn(command: Sequence[str], output: int, options: Mapping[str, Any]) -> Process:
    """Start a program that dies with the supervisor."""
    return await asyncio.create_subprocess_exec(
        *command,
        **options,
        stdin=DEVNULL,
        stdout=output,
        stderr=STDOUT,
        preexec_fn=partial(die_with_supervisor, os.getpid()),
    )


def die_with_supervisor(supervisor: int) -> None:
    """Prepare a child before its program begins. A later change of its user would clear PR_SET_PDEATHSIG."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a child inherits the mask that `run` sets
    if PRCTL:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)  # sent when our thread ends: children are started in the main thread
    # If the supervisor died before the call above, its death sends no signal. The child then has another parent.
    if os.getppid() != supervisor:
        os._exit(1)


@dataclass
class Child:
    """A program that is restarted whenever it ends, until it is stopped."""

    name: str
    command: Sequence[str]
    logs: Path
    options: Mapping[str, Any]  # for subprocess
    stop_timeout: float  # seconds from the stop signal to SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM
    probe: Sequence[str] = ()  # a command that exits with 0 once the program serves
    prepare: Callable[[], None] = lambda: None  # called before each start
    process: Process | None = None
    started_at: float = 0
    failures: int = 0
    last_failure: str = ""
    task: asyncio.Task[None] = field(init=False)

    def start(self) -> Self:
        """Keep the program running from now on."""
        self.task = asyncio.create_task(self._keep_running())
        return self

    async def until(self, problem: Callable[[], Awaitable[str]]) -> None:
        """Wait until the program has no problem any more. StartError says why that does not happen."""
        give_up_at = time.monotonic() + START_TIMEOUT
        while reason := await problem():
            if self.failures >= START_ATTEMPTS:
                raise StartError(f"{self.name} cannot be started: {self.last_failure}{tail(self.log)}")
            if time.monotonic() > give_up_at:
                raise StartError(f"{self.name} is not ready after {START_TIMEOUT} s: {reason}{tail(self.log)}")
            await asyncio.sleep(PROBE_INTERVAL)

    async def does_not_serve(self) -> str:
        """Why the program does not serve, empty if it does."""
        return "" if await succeeds(self.probe, self.options) else "it does not answer"

    async def has_not_settled(self) -> str:
        """Why the program may not be able to run, empty if it has run for a while."""
        if self.process is None or self.process.returncode is not None or is_stopped(self.process.pid):
            return "it does not keep running"
        return "" if time.monotonic() - self.started_at > SETTLED_AFTER else "it has only just begun"

    async def stop(self) -> None:
        """Stop the program, with SIGKILL if it has not ended after `stop_timeout`."""
        self.task.cancel()
        await asyncio.wait([self.task])
        if self.process and self.process.returncode is None:
            self.process.send_signal(self.stop_signal)
            try:
                await asyncio.wait_for(self.process.wait(), self.stop_timeout)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    @property
    def log(self) -> Path:
        """The file of the program's output."""
        return self.logs / f"{self.name}.log"

    async def _keep_running(self) -> None:
        while True:
            try:
                self.prepare()
                with self.log.open("ab") as log:
                    self.process = await spawn(self.command, log.fileno(), self.options)
                self.started_at = time.monotonic()
                self.last_failure = f"it ended ({await self.process.wait()})"
                say(f"{self.name} ended ({self.process.returncode}) and is restarted; its log: {self.log}")
            except Exception as error:  # noqa: BLE001 - the next try may succeed, whatever the error is
                self.last_failure = str(error)
                say(f"{self.name} could not be started and is tried again: {error}")
            self.failures += 1
            await asyncio.sleep(RESTART_DELAY)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped, by SIGSTOP or a debugger, and does nothing until it is continued."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "tT"
    except OSError:  # it has just ended, or this is not Linux
        return False


def tail(log: Path) -> str:
    """Return the end of a log as a part of an error message."""
    with contextlib.suppress(OSError):
        return "\n".join([f". The end of {log}:", *log.read_text(errors="replace").splitlines()[-LOG_TAIL:]])
    return ""


async def succeeds(command: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Whether a command exits with 0, within a few seconds."""
    process = await spawn(command, DEVNULL, options)
    try:
        return await asyncio.wait_for(process.wait(), PROBE_TIMEOUT) == 0
    except TimeoutError:
        process.kill()
        return await process.wait() == 0
