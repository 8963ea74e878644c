"""The folders of the embedded PostgreSQL: sockets, lock files, and a way in for its user under root."""

import contextlib
import os
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import local

NOBODY = 54321  # a user id that owns nothing here


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that only its owner may enter, directly below one that is open to all."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def far(postgres: Path, closed: Path) -> Path:
    """A cluster folder whose path is too long for a socket, owned as a cluster is."""
    assert postgres.exists()  # by now PostgreSQL's user exists
    cluster = closed / ("x" * 100) / "postgres"
    cluster.parent.mkdir()
    local._make_private(cluster)
    return cluster


def test_the_socket_is_in_the_cluster(postgres: Path) -> None:
    assert (postgres / local.POSTGRES_SOCKET).is_socket()
    assert local.postgres_socket_dir(postgres) == postgres


def test_a_socket_path_that_would_be_too_long_gives_way_to_a_private_folder(
    far: Path, closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    folder = local.postgres_socket_dir(far)
    assert folder.parent == closed
    assert len(str(folder / local.POSTGRES_SOCKET)) <= local.LONGEST_SOCKET_PATH
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert local.postgres_socket_dir(far) == folder


@pytest.mark.skipif(not local.AS_ROOT, reason="only root can give a folder to somebody else")
def test_a_socket_folder_of_somebody_else_is_refused(far: Path, closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    os.chown(local.postgres_socket_dir(far), NOBODY, NOBODY)
    with pytest.raises(local.StartError, match="belongs to somebody else"):
        local.postgres_socket_dir(far)


def serves(socket_dir: Path) -> bool:
    """Whether a server accepts connections there."""
    ready = [str(local.POSTGRES_BIN / "pg_isready"), "-q", "-h", str(socket_dir), "-U", "postgres"]
    return subprocess.run(ready, check=False).returncode == 0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, not for ever."""
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_a_running_server_is_left_alone(postgres: Path) -> None:
    local.clear_after_crash(postgres, postgres)
    assert (postgres / "postmaster.pid").exists()
    assert serves(postgres)


@pytest.mark.parametrize("content", ["{living}\n/some/where\n", "4194305\n/some/where\n", ""])
def test_the_locks_of_a_dead_server_are_removed(content: str, tmp_path: Path) -> None:
    locks = [tmp_path / "postmaster.pid", tmp_path / f"{local.POSTGRES_SOCKET}.lock"]
    for lock in locks:
        lock.write_text(content.format(living=os.getpid()))
    local.clear_after_crash(tmp_path, tmp_path)
    assert not any(lock.exists() for lock in locks)
    local.clear_after_crash(tmp_path, tmp_path)


def checkpointer(server: subprocess.Popen[bytes]) -> int:
    """The process id of one of the server's helpers, 0 if it is not there yet."""
    for child in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):  # short-lived ones come and go
            if "checkpointer" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    return 0


def test_what_a_killed_server_left_running_does_not_keep_the_next_from_starting(closed: Path) -> None:
    socket_dir = local.init_postgres(closed)
    command = local.postgres_command(closed, socket_dir)
    for _ in range(2):
        local.clear_after_crash(closed / "postgres", socket_dir)
        with subprocess.Popen(command, **local.POSTGRES_OPTIONS, stderr=subprocess.DEVNULL) as server:
            try:
                wait_until(lambda: serves(socket_dir) and checkpointer(server) > 0)
                os.kill(checkpointer(server), signal.SIGSTOP)  # it will not notice that its server is gone
            finally:
                server.kill()
    local.clear_after_crash(closed / "postgres", socket_dir)


MAKE_USER = """
import pathlib, pwd, sys, time, local
local.POSTGRES_USER, go = sys.argv[1], pathlib.Path(sys.argv[2])
print("ready", flush=True)
while not go.exists(): pass
local._let_postgres_reach()
made = pwd.getpwnam(sys.argv[1])
time.sleep(0.3)
assert pwd.getpwnam(sys.argv[1]) == made
print(made.pw_uid, made.pw_gid)
"""


@pytest.mark.skipif(not local.AS_ROOT, reason="only root can make users")
def test_processes_that_start_at_once_make_one_user(tmp_path: Path) -> None:
    name, go = f"vmapi-test-{os.getpid()}", tmp_path / "go"
    command = [sys.executable, "-c", MAKE_USER, name, str(go)]
    processes = [subprocess.Popen(command, cwd=local.ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        go.touch()
        made = {process.communicate()[0] for process in processes}
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert len(made) == 1
    finally:
        subprocess.run(["/usr/sbin/userdel", name], check=True)


def test_one_user_is_let_through_and_nobody_else(closed: Path) -> None:
    before = stat.S_IMODE(closed.stat().st_mode)
    for _ in range(2):
        local.let_pass(NOBODY, closed)
    acl = os.getxattr(closed, local.ACL)
    entries = {(tag, who): rights for tag, rights, who in struct.iter_unpack("<HHI", acl[4:])}
    assert before == 0o700
    assert entries == {
        (local.ACL_OWNER, local.ACL_NO_ID): 7,
        (local.ACL_USER, NOBODY): local.ACL_PASS,
        (local.ACL_GROUP, local.ACL_NO_ID): 0,
        (local.ACL_MASK, local.ACL_NO_ID): local.ACL_PASS,
        (local.ACL_OTHER, local.ACL_NO_ID): 0,
    }


@pytest.mark.skipif(not local.AS_ROOT, reason="only root can become somebody else")
@pytest.mark.parametrize(("user", "reads"), [(NOBODY, True), (NOBODY + 1, False)])
def test_who_is_let_through_reaches_what_is_inside(closed: Path, user: int, *, reads: bool) -> None:
    inside = closed / "inside"
    inside.write_text("content")
    local.let_pass(NOBODY, closed)
    read = subprocess.run(["/bin/cat", str(inside)], user=user, group=user, cwd="/", capture_output=True, check=False)
    assert (read.returncode == 0) is reads
    listed = subprocess.run(["/bin/ls", str(closed)], user=user, group=user, cwd="/", capture_output=True, check=False)
    assert listed.returncode != 0
