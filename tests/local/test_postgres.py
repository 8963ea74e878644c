"""The embedded PostgreSQL: its socket, what a crash leaves, its system user, and access to its folders under root."""

import contextlib
import os
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import local
from migrations import embedded_postgres
from migrations.data_dir import DataDirError
from tests.support.waiting import block_until

SOME_USER = 54321  # a user id that owns nothing on this machine


@pytest.fixture
def cluster_with_long_path(postgres: Path, private_folder: Path) -> Path:
    """A cluster folder whose path is too long for a socket, owned by PostgreSQL's user."""
    assert postgres.exists()  # so PostgreSQL's user exists, too
    cluster = private_folder / ("x" * 100) / "postgres"
    cluster.parent.mkdir()
    embedded_postgres.make_private_folder(cluster)
    return cluster


def test_the_socket_is_in_the_cluster_folder(postgres: Path) -> None:
    assert (postgres / embedded_postgres.SOCKET_NAME).is_socket()
    assert embedded_postgres.socket_dir_of(postgres) == postgres


def test_if_the_socket_path_is_too_long_the_socket_is_in_a_private_temporary_folder(
    cluster_with_long_path: Path, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(private_folder))
    folder = embedded_postgres.socket_dir_of(cluster_with_long_path)
    assert folder.parent == private_folder
    assert len(str(folder / embedded_postgres.SOCKET_NAME)) <= embedded_postgres.MAX_SOCKET_PATH
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert embedded_postgres.socket_dir_of(cluster_with_long_path) == folder


@pytest.mark.parametrize("character", [*",:@%#?&= '\"\\", "ä"])
def test_if_the_path_has_a_character_with_a_meaning_the_socket_is_in_a_private_temporary_folder(
    character: str, postgres: Path, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert postgres.exists()  # so PostgreSQL's user exists, too
    (cluster := private_folder / f"a{character}b").mkdir()
    embedded_postgres.make_private_folder(cluster / "postgres")
    monkeypatch.setattr(tempfile, "tempdir", str(private_folder))
    assert embedded_postgres.socket_dir_of(cluster / "postgres").parent == private_folder


def test_a_socket_folder_that_was_removed_is_made_anew_for_the_next_start(
    cluster_with_long_path: Path, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(private_folder))
    folder = embedded_postgres.socket_dir_of(cluster_with_long_path)
    folder.rmdir()
    embedded_postgres.prepare_start(cluster_with_long_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_temporary_folder_that_does_not_suit_a_socket_is_refused(
    cluster_with_long_path: Path, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (odd := private_folder / "a,b").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with pytest.raises(embedded_postgres.PostgresError, match="set TMPDIR to a folder with a shorter, plainer path"):
        embedded_postgres.socket_dir_of(cluster_with_long_path)


@pytest.mark.skipif(not embedded_postgres.AS_ROOT, reason="only as root the server runs as another user")
def test_the_server_reaches_its_socket_in_a_temporary_folder_that_is_closed_to_others(
    private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := private_folder / "tmp").mkdir(mode=0o700)
    (data_dir := private_folder / "a,b").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    socket_dir = embedded_postgres.init_cluster(data_dir)
    assert socket_dir.parent == temporary
    touch = ["/bin/touch", str(socket_dir / "file")]
    subprocess.run(touch, **embedded_postgres.PROCESS_OPTIONS, check=True)


@pytest.mark.skipif(not embedded_postgres.AS_ROOT, reason="only root can give a folder to another user")
def test_a_temporary_folder_of_another_user_is_refused(
    cluster_with_long_path: Path, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := private_folder / "tmp").mkdir()
    os.chown(temporary, SOME_USER, SOME_USER)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(DataDirError, match=r"TMPDIR cannot be used: .*tmp belongs to the user with the id 54321"):
        embedded_postgres.socket_dir_of(cluster_with_long_path)


@pytest.mark.parametrize("version", [b"15", b"17", b"\xff"])
def test_a_cluster_of_another_version_is_refused(private_folder: Path, version: bytes) -> None:
    (private_folder / "postgres").mkdir()
    (private_folder / "postgres" / "PG_VERSION").write_bytes(version + b"\n")
    message = f"was made by PostgreSQL {version.decode(errors='replace')}, not 16: set another DATA_DIR"
    with pytest.raises(embedded_postgres.PostgresError, match=message):
        embedded_postgres.init_cluster(private_folder)


def test_a_program_that_does_not_end_is_given_up(private_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "COMMAND_TIMEOUT", 0.01)
    with pytest.raises(embedded_postgres.PostgresError, match=r"initdb has not ended after 0\.01 s"):
        embedded_postgres.init_cluster(private_folder)


def test_a_program_that_is_killed_is_named_with_its_signal(
    private_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example when the machine has no memory left."""
    (programs := tmp_path / "bin").mkdir()
    (programs / "initdb").write_text("#!/bin/sh\nkill -9 $$\n")
    for path in (programs, programs / "initdb"):
        path.chmod(0o755)
    monkeypatch.setattr(embedded_postgres, "BIN", programs)
    with pytest.raises(embedded_postgres.PostgresError, match="initdb failed: it ended with -9"):
        embedded_postgres.init_cluster(private_folder)


@pytest.mark.skipif(not embedded_postgres.AS_ROOT, reason="only root can give a folder to another user")
def test_a_socket_folder_of_another_user_is_refused(
    cluster_with_long_path: Path, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(private_folder))
    os.chown(embedded_postgres.socket_dir_of(cluster_with_long_path), SOME_USER, SOME_USER)
    with pytest.raises(embedded_postgres.PostgresError, match="belongs to another user"):
        embedded_postgres.socket_dir_of(cluster_with_long_path)


def accepts_connections(socket_dir: Path) -> bool:
    """Whether a server accepts connections at the socket."""
    return subprocess.run(embedded_postgres.ready_command(socket_dir), check=False).returncode == 0


def test_clearing_leaves_a_running_server_alone(postgres: Path) -> None:
    embedded_postgres.clear_after_crash(postgres, postgres)
    assert (postgres / "postmaster.pid").exists()
    assert accepts_connections(postgres)


@pytest.mark.parametrize("content", ["{living}\n/some/where\n", "4194305\n/some/where\n", ""])
def test_the_lock_files_of_a_dead_server_are_removed(content: str, tmp_path: Path) -> None:
    locks = [tmp_path / "postmaster.pid", tmp_path / f"{embedded_postgres.SOCKET_NAME}.lock"]
    for lock in locks:
        lock.write_text(content.format(living=os.getpid()))
    embedded_postgres.clear_after_crash(tmp_path, tmp_path)
    assert not any(lock.exists() for lock in locks)
    embedded_postgres.clear_after_crash(tmp_path, tmp_path)


def checkpointer_of(server: subprocess.Popen[bytes]) -> int:
    """The process id of the server's checkpointer, 0 if it has not started yet."""
    for child in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):  # short-lived children may end meanwhile
            if "checkpointer" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    return 0


def test_orphans_of_a_killed_server_do_not_keep_the_next_from_starting(private_folder: Path) -> None:
    socket_dir = embedded_postgres.init_cluster(private_folder)
    command = embedded_postgres.server_command(private_folder, socket_dir)
    for _ in range(2):
        embedded_postgres.clear_after_crash(private_folder / "postgres", socket_dir)
        with subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL) as server:
            try:
                block_until(lambda: accepts_connections(socket_dir) and checkpointer_of(server) > 0, deadline=10)
                # A stopped process cannot notice that its server dies, so it stays as an orphan.
                os.kill(checkpointer_of(server), signal.SIGSTOP)
            finally:
                server.kill()
    embedded_postgres.clear_after_crash(private_folder / "postgres", socket_dir)


CREATE_USER = """
import pathlib, pwd, sys, time
from migrations import embedded_postgres
embedded_postgres.USER, go = sys.argv[1], pathlib.Path(sys.argv[2])
print("ready", flush=True)
while not go.exists(): pass
embedded_postgres.create_user()
created = pwd.getpwnam(sys.argv[1])
time.sleep(0.3)
assert pwd.getpwnam(sys.argv[1]) == created
print(created.pw_uid, created.pw_gid)
"""


@pytest.mark.skipif(not embedded_postgres.AS_ROOT, reason="only root can create users")
def test_processes_that_start_at_the_same_time_create_one_user(tmp_path: Path) -> None:
    name, go = f"vmapi-test-{os.getpid()}", tmp_path / "go"
    command = [sys.executable, "-c", CREATE_USER, name, str(go)]
    processes = [subprocess.Popen(command, cwd=local.ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        go.touch()
        users = {process.communicate()[0] for process in processes}
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert len(users) == 1
    finally:
        subprocess.run(["/usr/sbin/userdel", name], check=True)


def test_the_access_list_allows_one_user_to_traverse_a_folder(private_folder: Path) -> None:
    mode = stat.S_IMODE(private_folder.stat().st_mode)
    for _ in range(2):
        embedded_postgres.allow_traversal(SOME_USER, private_folder)
    acl = os.getxattr(private_folder, embedded_postgres.ACL)
    entries = {(tag, id): permissions for tag, permissions, id in struct.iter_unpack("<HHI", acl[4:])}
    assert mode == 0o700
    assert entries == {
        (embedded_postgres.ACL_OWNER, embedded_postgres.ACL_NO_ID): 7,
        (embedded_postgres.ACL_USER, SOME_USER): embedded_postgres.ACL_TRAVERSE,
        (embedded_postgres.ACL_GROUP, embedded_postgres.ACL_NO_ID): 0,
        (embedded_postgres.ACL_MASK, embedded_postgres.ACL_NO_ID): embedded_postgres.ACL_TRAVERSE,
        (embedded_postgres.ACL_OTHER, embedded_postgres.ACL_NO_ID): 0,
    }


@pytest.mark.skipif(not embedded_postgres.AS_ROOT, reason="only root can become another user")
@pytest.mark.parametrize(("user", "may_read"), [(SOME_USER, True), (SOME_USER + 1, False)])
def test_the_user_may_read_a_file_in_the_folder_but_not_list_the_folder(
    private_folder: Path, user: int, *, may_read: bool
) -> None:
    file = private_folder / "file"
    file.write_text("content")
    embedded_postgres.allow_traversal(SOME_USER, private_folder)

    def succeeds(*command: str) -> bool:
        result = subprocess.run(command, user=user, group=user, cwd="/", capture_output=True, check=False)
        return result.returncode == 0

    assert succeeds("/bin/cat", str(file)) is may_read
    assert not succeeds("/bin/ls", str(private_folder))
