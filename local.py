"""The supervisor behind `make up`: runs PostgreSQL, Temporal, worker and API under DATA_DIR until SIGINT or SIGTERM."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import secrets
import signal
import socket
import sys
import urllib.request
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from domain.settings import Settings, load_settings
from migrations import embedded_postgres
from migrations.embedded_postgres import PostgresError

ROOT = Path(__file__).resolve().parent
RESTART_DELAY, PROBE_INTERVAL = 0.25, 0.05  # seconds
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Ctrl-C sends SIGINT to every process of the terminal's group. With a session of its own a child does not get it,
# so that the supervisor alone decides in which order the children stop.
PROCESS_OPTIONS: dict[str, Any] = {"cwd": ROOT, "start_new_session": True}
PRCTL, PR_SET_PDEATHSIG = getattr(ctypes.CDLL(None), "prctl", None), 1  # Linux only

TEMPORAL = str(Path(sys.executable).with_name("temporal"))
HISTORY_QUEUES = ("transfer", "timer", "visibility", "outbound")
# The dev server's defaults sync the disk 64 times for each workflow and poll its queues only 20 times a second.
TEMPORAL_TUNING = [
    *("--sqlite-pragma=journal_mode=wal", "--sqlite-pragma=synchronous=normal"),
    *(f"--dynamic-config-value=history.{queue}ProcessorMaxPollRPS=1000" for queue in HISTORY_QUEUES),
    '--dynamic-config-value=history.timerProcessorMaxTimeShift="10ms"',
    *(f"--dynamic-config-value=matching.numTaskqueue{side}Partitions=1" for side in ("Read", "Write")),
    "--dynamic-config-value=matching.enableFairness=true",  # round-robin by owner; the default is oldest first
    "--dynamic-config-value=system.forceSearchAttributesCacheRefreshOnRead=false",
]


class StartError(Exception):
    """The stack cannot start; the message says why and what to do."""


def temporal_command(database: Path, settings: Settings) -> list[str]:
    """Command line of the Temporal dev server with its Web UI; its state is one file."""
    ports = [f"--port={settings.temporal_port}", f"--ui-port={settings.temporal_ui_port}"]
    state = [f"--db-filename={database}", f"--namespace={settings.temporal_namespace}"]
    quiet = ["--ui-disable-news-fetch", "--log-level=error"]
    return [TEMPORAL, "server", "start-dev", "--ip=127.0.0.1", *ports, *state, *quiet, *TEMPORAL_TUNING]


def retention_command(settings: Settings) -> list[str]:
    """Command that keeps closed workflows for 30 days; it also serves as probe, as it fails until the server is up."""
    target = [f"--namespace={settings.temporal_namespace}", f"--address=127.0.0.1:{settings.temporal_port}"]
    update = ["operator", "namespace", "update", "--retention=30d", *target]
    return [TEMPORAL, *update, "--disable-config-file", "--disable-config-env"]


def lock_data_dir(data_dir: Path) -> int:
    """Create the data directory and lock it until this process ends; return the lock's file descriptor."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The descriptor stays open: the kernel releases the lock when the process ends, even by SIGKILL.
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode()
        raise StartError(f"Another `make up`, process {holder}, is using {data_dir}: stop it or set DATA_DIR") from None
    except OSError as error:
        raise StartError(f"DATA_DIR {data_dir} cannot be used: {error.strerror}") from None
    os.truncate(lock, os.pwrite(lock, str(os.getpid()).encode(), 0))
    return lock


def check_ports(settings: Settings) -> None:
    """Raise StartError if a port that the stack will listen on is taken."""
    addresses = {"API_PORT": (settings.api_host, settings.api_port)}
    if "temporal_address" not in settings.model_fields_set:
        addresses["TEMPORAL_PORT"] = ("127.0.0.1", settings.temporal_port)
        addresses["TEMPORAL_UI_PORT"] = ("127.0.0.1", settings.temporal_ui_port)
    # All ports stay open until the last is checked: two settings may name the same one.
    with contextlib.ExitStack() as sockets:
        for setting, (host, port) in addresses.items():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                sockets.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                why = f"Port {port} on {host} ({setting}) cannot be used: {error.strerror}".partition(" (while")[0]
                raise StartError(f"{why}. Free it or choose another: make up {setting}=...") from None


def secret_key(data_dir: Path) -> str:
    """Return the stack's signing key; the first start creates it, readable by its owner only."""
    path, unfinished = data_dir / "secret_key", data_dir / "secret_key.new"
    if not path.exists():
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(48))
        unfinished.rename(path)
    return path.read_text()


def say(line: str) -> None:
    """Print a line. If the terminal is gone, the stack continues without it."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


async def spawn(command: Sequence[str], output: int, options: Mapping[str, Any] = PROCESS_OPTIONS) -> Process:
    """Start a program that dies with the supervisor."""
    return await asyncio.create_subprocess_exec(
        *command, **options, stdin=DEVNULL, stdout=output, stderr=STDOUT, preexec_fn=partial(_before_exec, os.getpid())
    )


def _before_exec(supervisor: int) -> None:
    """Prepare the child. It has changed its user before this: a change afterwards would clear PR_SET_PDEATHSIG."""
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
    stop_timeout: float  # seconds from the stop signal to SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM
    probe: Sequence[str] = ()  # a command that exits with 0 once the program serves
    options: Mapping[str, Any] = field(default_factory=lambda: PROCESS_OPTIONS)
    prepare: Callable[[], None] = lambda: None  # called before each start
    process: Process | None = None
    task: asyncio.Task[None] = field(init=False)

    def start(self) -> Self:
        """Keep the program running from now on."""
        self.task = asyncio.create_task(self._keep_running())
        return self

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

    async def _keep_running(self) -> None:
        path = self.logs / f"{self.name}.log"
        while True:
            try:
                self.prepare()
                with path.open("ab") as log:
                    self.process = await spawn(self.command, log.fileno(), self.options)
                say(f"{self.name} ended ({await self.process.wait()}) and is restarted; its log: {path}")
            except Exception as error:  # noqa: BLE001 - the next try may succeed, whatever the error is
                say(f"{self.name} could not be started and is tried again: {error}")
            await asyncio.sleep(RESTART_DELAY)


async def _wait_until(probe: Callable[[], Awaitable[bool]]) -> None:
    while not await probe():  # noqa: ASYNC110 - another process sets no asyncio.Event
        await asyncio.sleep(PROBE_INTERVAL)


async def succeeds(command: Sequence[str]) -> bool:
    """Whether a command exits with 0."""
    return await (await spawn(command, DEVNULL)).wait() == 0


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1).close()
        return True
    return False


def postgres_server(data_dir: Path, socket_dir: Path, logs: Path) -> Child:
    """The database server of an existing cluster, not yet started."""
    return Child(
        "postgres",
        embedded_postgres.server_command(data_dir, socket_dir),
        logs,
        stop_timeout=5,
        stop_signal=signal.SIGINT,  # on SIGTERM PostgreSQL would wait for its clients to disconnect
        probe=embedded_postgres.ready_command(socket_dir),
        options=embedded_postgres.PROCESS_OPTIONS,
        prepare=partial(embedded_postgres.clear_after_crash, data_dir / "postgres", socket_dir),
    )


def temporal_server(settings: Settings, data_dir: Path, logs: Path) -> Child:
    """The Temporal dev server, not yet started."""
    command = temporal_command(data_dir / "temporal.db", settings)
    return Child("temporal", command, logs, stop_timeout=4, probe=retention_command(settings))


def own_servers(settings: Settings, data_dir: Path, logs: Path) -> Iterator[Child]:
    """Yield the servers that the settings do not name, and put their addresses into our environment."""
    if "database_url" not in settings.model_fields_set:
        socket_dir = embedded_postgres.init_cluster(data_dir)
        os.environ["DATABASE_URL"] = embedded_postgres.database_url(socket_dir)
        yield postgres_server(data_dir, socket_dir, logs)
    if "temporal_address" not in settings.model_fields_set:
        os.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{settings.temporal_port}"
        if "temporal_ui_url" not in settings.model_fields_set:
            os.environ["TEMPORAL_UI_URL"] = f"http://127.0.0.1:{settings.temporal_ui_port}"
        yield temporal_server(settings, data_dir, logs)


async def migrate(logs: Path) -> None:
    """Run `python -m migrations`, which prepares the database and Temporal."""
    path = logs / "migrations.log"
    with path.open("wb") as log:
        process = await spawn([sys.executable, "-m", "migrations"], log.fileno())
    if await process.wait():
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-15:])
        raise StartError(f"The database or Temporal could not be prepared, see {path}:\n{tail}")


async def start(settings: Settings, data_dir: Path, children: list[Child]) -> None:
    """Start everything in order and print the addresses; `children` collects what must be stopped later."""
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    say(f"Starting; logs are in {logs}")
    key = settings.secret_key.get_secret_value() if settings.secret_key else secret_key(data_dir)
    os.environ.pop("SECRET_KEY", None)  # only the API may see it
    for server in own_servers(settings, data_dir, logs):
        children.append(server.start())  # noqa: PERF401 - one by one: if a later one fails, these must be stopped
    await asyncio.gather(*(_wait_until(partial(succeeds, server.probe)) for server in children))
    await migrate(logs)
    children.append(Child("worker", [sys.executable, "-m", "worker"], logs, stop_timeout=8).start())
    with_key = PROCESS_OPTIONS | {"env": os.environ | {"SECRET_KEY": key}}
    children.append(Child("api", [sys.executable, "-m", "api"], logs, stop_timeout=5, options=with_key).start())
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    api = f"http://{host}:{settings.api_port}/api/v1"
    await _wait_until(partial(asyncio.to_thread, _answers, f"{api}/health/ready"))
    temporal_ui = os.environ.get("TEMPORAL_UI_URL", settings.temporal_ui_url)
    say(f"Ready.\n  API          {api}\n  API docs     {api}/docs\n  Temporal UI  {temporal_ui}")
    say(f"  Data         {data_dir} (kept between starts)\nStop with Ctrl-C.")


async def run(settings: Settings, data_dir: Path) -> None:
    """Keep the stack running until the first SIGINT or SIGTERM; later ones change nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # closing the terminal does not stop the stack
    # The signals are blocked and a thread waits for them. A signal handler would be removed when the event loop closes,
    # and a second Ctrl-C after that would kill us and change the exit code. Blocked signals stay pending instead.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    children: list[Child] = []
    starting = asyncio.create_task(start(settings, data_dir, children))
    stopping = asyncio.create_task(asyncio.to_thread(signal.sigwait, STOP_SIGNALS))
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stopping
    finally:
        say("Stopping")
        starting.cancel()
        await asyncio.wait([starting])
        for child in reversed(children):
            await child.stop()
        # After a failed start no signal has come. The thread would wait for one for ever and keep the process alive.
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Check the data directory and the ports, then run the stack until a signal stops it."""
    os.chdir(ROOT)
    settings = load_settings()
    data_dir = settings.data_dir.resolve()
    try:
        lock_data_dir(data_dir)
        check_ports(settings)
        asyncio.run(run(settings, data_dir))
    except (StartError, PostgresError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
