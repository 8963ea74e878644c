"""The folders of the embedded PostgreSQL: sockets, lock files, and a way in for its user under root."""

import os
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
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


def test_the_lock_of_the_running_server_is_left_alone(postgres: Path) -> None:
    lock = postgres / "postmaster.pid"
    local.forget_if_stale(lock, postgres)
    assert lock.exists()


@pytest.mark.parametrize("content", ["{living}\n/some/where\n", "4194305\n/some/where\n", ""])
def test_the_lock_of_a_dead_server_is_removed(content: str, tmp_path: Path) -> None:
    lock = tmp_path / "postmaster.pid"
    lock.write_text(content.format(living=os.getpid()))
    local.forget_if_stale(lock, tmp_path)
    assert not lock.exists()
    local.forget_if_stale(lock, tmp_path)


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
