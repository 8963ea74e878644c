"""The folder of `make up`: its state, logs and signing key, which are the starting user's alone."""

import contextlib
import fcntl
import grp
import os
import pwd
import secrets
import shutil
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

STATE = {"lock", "secret_key", "secret_key.old", "logs", "postgres", "postgres.new"}
STATE |= {"temporal.db", "temporal.db-wal", "temporal.db-shm", "temporal.unfinished"}
LOGS = frozenset(f"{name}.log" for name in ("api", "worker", "temporal", "postgres", "migrations"))
# Bytes. SQLite opens no file with a path of more than 512, and the longest of Temporal's is `/temporal.db-journal`.
MAX_PATH = 490
MINIMUM_KEY = 32  # bytes, as for the setting SECRET_KEY
MAX_LOG_SIZE = 32 << 20  # bytes, for each program; the part before it is kept too, so a program needs twice as much
ACL_USER, ACL_GROUP, ACL_WRITE = 0x02, 0x08, 0x02  # in Linux's struct posix_acl_xattr
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class DataDirError(Exception):
    """The data directory cannot be used; the message says why and what to do."""


def prepare(wanted: Path, *, checkout: Path, database_user: str) -> Path:
    """Create the data directory or check that an existing one is ours alone; lock it and return its real path.

    It stays locked until this process ends. `database_user` may own the folders of PostgreSQL.
    """
    if not str(wanted).isprintable():
        raise DataDirError(f"DATA_DIR {str(wanted)!r} cannot be used: it has control characters or is not UTF-8")
    try:
        data_dir = wanted.resolve()
        links = {path for path in (wanted.absolute(), *wanted.absolute().parents) if path.is_symlink()}
        # Who can change the checkout can change this program. So its folders need no check.
        check_parents({*links, *data_dir.parents} - {checkout, *checkout.parents}, "DATA_DIR")
        if len(os.fsencode(data_dir)) > MAX_PATH:
            raise DataDirError(
                f"DATA_DIR cannot be used: its path has more than {MAX_PATH} bytes. Choose another folder"
            )
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(data_dir, {os.geteuid()})
        _lock(data_dir)
        _make_private(data_dir, database_user)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise DataDirError(f"DATA_DIR {wanted} cannot be used: {getattr(error, 'strerror', None) or error}") from None
    return data_dir


def secret_key(data_dir: Path) -> str:
    """Return the stack's signing key; the first start creates it, readable by its owner only."""
    path = data_dir / "secret_key"
    if not path.exists():
        _write_key(path, secrets.token_urlsafe(48))
    return _read_key(path)


def former_secret_keys(data_dir: Path) -> list[str]:
    """Return the key that the last change of the signing key has replaced, if there was one."""
    path = data_dir / "secret_key.old"
    return [_read_key(path)] if path.exists() else []


def change_secret_key(data_dir: Path) -> None:
    """Make a new signing key. The one before it stays beside it, so that nobody is logged out."""
    _write_key(data_dir / "secret_key.old", secret_key(data_dir))
    _write_key(data_dir / "secret_key", secrets.token_urlsafe(48))


def _write_key(path: Path, key: str) -> None:
    unfinished = path.with_name("secret_key.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(key)
        file.flush()
        os.fsync(file)  # otherwise a power cut could leave an empty key
    unfinished.rename(path)


def _read_key(path: Path) -> str:
    if not path.is_file():  # for example a pipe, whose writer we would wait for
        raise DataDirError(f"{path} is no file: remove it or choose another DATA_DIR")
    key = path.read_text(errors="replace")
    if "\ufffd" in key or len(key) < MINIMUM_KEY:
        raise DataDirError(f"{path} is damaged: restore it, or delete it, which ends all logins")
    return key


def limit_logs(logs: Path) -> None:
    """Move the content of each log that is too large into a file beside it, which replaces the one before it.

    The programs have their logs open, so the content is copied. They append, so they continue at the new end. The lines
    of the moment between copy and truncation are lost.
    """
    for log in (logs / name for name in LOGS):  # the folder may have logs of other programs, too
        with contextlib.suppress(FileNotFoundError):  # the program has not started yet
            if log.stat().st_size > MAX_LOG_SIZE:
                with contextlib.suppress(OSError):  # on a full disk there is no copy, but space again
                    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
                os.truncate(log, 0)


def _lock(data_dir: Path) -> None:
    # The descriptor stays open: the kernel releases the lock when the process ends, even by SIGKILL.
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode()
        os.close(lock)
        message = f"Another `make up`, process {holder}, is using {data_dir}: stop it or set DATA_DIR"
        raise DataDirError(message) from None
    os.truncate(lock, os.pwrite(lock, str(os.getpid()).encode(), 0))


def check_parents(paths: Iterable[Path], setting: str) -> None:
    """Raise DataDirError if another user could replace the folder that a setting names and that is in these."""
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):  # `mkdir` creates it
            info = path.lstat()
            if info.st_uid not in {0, os.geteuid()}:
                raise DataDirError(f"{setting} cannot be used: {path} belongs to {_user(info)}. Choose another folder")
            if _others_can_write(path, info) and not info.st_mode & stat.S_ISVTX:
                raise DataDirError(f"{setting} cannot be used: other users can write to {path}. Choose another folder")


def _make_private(data_dir: Path, database_user: str) -> None:
    """Check what earlier starts have left, and take the permissions of other users away."""
    ours = {os.geteuid()}
    database_owners = ours | {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name == database_user and 0 in ours}
    for path in (data_dir / name for name in STATE):
        if os.path.lexists(path):
            _check_owner(path, database_owners if path.name.startswith("postgres") else ours)
    logs = [path for path in (data_dir / "logs").glob("*") if path.name.removesuffix(".1") in LOGS]
    for path in logs:
        _check_owner(path, ours)
        if not path.is_file():  # for example a pipe, whose reader we would wait for
            raise DataDirError(f"{path} is no file: remove it or choose another DATA_DIR")
    # Earlier versions let everybody read their files.
    files = [*data_dir.glob("secret_key*"), *data_dir.glob("temporal.db*"), *logs]
    # A folder that contains other things, such as a home directory, keeps its mode.
    folders = [data_dir / "logs"] if {*(data_dir / "logs").glob("*")} <= {*logs} else []
    if {path.name for path in data_dir.iterdir()} <= {*STATE, "secret_key.new"}:
        folders.append(data_dir)
    for path in (*files, *folders):
        if path.exists() and path.stat().st_mode & OTHERS:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)


def _check_owner(path: Path, owners: set[int]) -> None:
    for info in (path.lstat(), path.stat()):  # of a symbolic link, and of what it leads to
        if info.st_uid not in owners:
            raise DataDirError(f"{path} belongs to {_user(info)}: start as that user or choose another DATA_DIR")
        if _others_can_write(path, info):
            raise DataDirError(f"Other users can write to {path}: set DATA_DIR to a new folder, or: chmod go-w {path}")


def _others_can_write(path: Path, info: os.stat_result) -> bool:
    if stat.S_ISLNK(info.st_mode):
        return False
    if info.st_mode & stat.S_IWOTH:
        return True
    # If there is an access control list, these bits are its mask: they limit the users and groups that it names.
    return bool(info.st_mode & stat.S_IWGRP) and not (_is_private_group(info.st_gid) and _list_is_private(path))


def _list_is_private(path: Path) -> bool:
    """Whether no other user may write because an access control list names them or their group."""
    acl = b""
    with contextlib.suppress(OSError):  # there is no list
        acl = os.getxattr(path, "system.posix_acl_access")
    writers = [(tag, id) for tag, permissions, id in struct.iter_unpack("<HHI", acl[4:]) if permissions & ACL_WRITE]
    users, groups = ({id for tag, id in writers if tag == named} for named in (ACL_USER, ACL_GROUP))
    return users <= {os.geteuid(), 0} and all(_is_private_group(group) for group in groups)


def _is_private_group(group: int) -> bool:
    """Whether we are a group's only member: many systems give every user such a group, and umask 002."""
    users = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    members = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == group}
    with contextlib.suppress(KeyError):  # a group without a name
        members |= {users.get(name, -1) for name in grp.getgrgid(group).gr_mem}
    return members <= {os.geteuid(), 0}


def _user(info: os.stat_result) -> str:
    with contextlib.suppress(KeyError):
        return f"the user {pwd.getpwuid(info.st_uid).pw_name}"
    return f"the user with the id {info.st_uid}"
