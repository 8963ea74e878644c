"""The data directory of `make up`: who may own and read it, its lock, its signing key, and the size of its logs."""

import os
import pwd
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import local
from domain.settings import load_settings
from migrations import data_dir, embedded_postgres
from migrations.data_dir import DataDirError

NO_ID = 0xFFFFFFFF
STRANGER = 54321  # a user id that has no name on this machine
AS_ROOT = pytest.mark.skipif(not embedded_postgres.AS_ROOT, reason="only root can give a file to another user")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory of an earlier version, which let everybody read its files."""
    folder = tmp_path / "old"
    (folder / "logs").mkdir(parents=True)
    (folder / "postgres").mkdir(mode=0o700)
    for name in ("secret_key", "temporal.db", "temporal.db-wal", "logs/api.log"):
        (folder / name).touch()
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    return folder


def prepare(folder: Path | str, checkout: Path = local.ROOT) -> Path:
    """Prepare a data directory as `make up` does."""
    return data_dir.prepare(Path(folder), checkout=checkout, database_user=embedded_postgres.USER)


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_data_directory_is_its_owners_only(tmp_path: Path) -> None:
    assert mode(prepare(tmp_path / "new")) == 0o700


def test_files_of_an_earlier_version_are_closed_to_other_users(old: Path) -> None:
    prepare(old)
    open_to_others = [path for path in (old, *old.rglob("*")) if mode(path) & 0o077]
    assert open_to_others == []


def test_a_folder_that_holds_other_things_keeps_its_mode(old: Path) -> None:
    (old / "letters").touch(mode=0o644)
    (old / "letters").chmod(0o644)
    prepare(old)
    assert (mode(old), mode(old / "letters"), mode(old / "temporal.db")) == (0o755, 0o644, 0o600)


@AS_ROOT
@pytest.mark.parametrize("name", [".", "logs", "logs/api.log", "secret_key", "temporal.db", "postgres"])
def test_a_file_of_another_user_is_refused(old: Path, name: str) -> None:
    os.chown(old / name, STRANGER, STRANGER)
    with pytest.raises(DataDirError, match="belongs to the user with the id 54321: start as that user or choose"):
        prepare(old)


@AS_ROOT
def test_a_symbolic_link_of_another_user_is_refused(old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(old)
    assert prepare(link) == old
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(DataDirError, match="link belongs to"):
        prepare(link)


@AS_ROOT
def test_the_database_servers_user_owns_the_database_and_nothing_else(old: Path, tmp_path: Path) -> None:
    embedded_postgres.create_user()
    server = pwd.getpwnam(embedded_postgres.USER).pw_uid
    os.chown(old / "postgres", server, server)
    prepare(old)
    os.chown(old.rename(tmp_path / "other") / "temporal.db", server, server)
    (tmp_path / "other" / "lock").unlink()
    with pytest.raises(DataDirError, match=f"temporal.db belongs to the user {embedded_postgres.USER}"):
        prepare(tmp_path / "other")


@pytest.mark.parametrize("name", [".", "logs", "logs/api.log", "secret_key", "temporal.db-wal"])
def test_a_file_that_others_can_write_is_refused(old: Path, name: str) -> None:
    (old / name).chmod(0o777)
    with pytest.raises(DataDirError, match=r"Other users can write to .*: chmod go-w "):
        prepare(old)


@pytest.mark.parametrize(("named", "id"), [(0x02, STRANGER), (0x08, pwd.getpwnam("daemon").pw_gid)])
def test_a_folder_that_an_access_list_lets_others_write_is_refused(old: Path, named: int, id: int) -> None:
    everything = ((0x01, 7, NO_ID), (0x04, 0, NO_ID), (named, 7, id), (0x10, 7, NO_ID), (0x20, 0, NO_ID))
    entries = sorted(everything)  # the kernel wants them in the order of their tags
    os.chown(old, -1, pwd.getpwuid(os.geteuid()).pw_gid)
    os.setxattr(old, "system.posix_acl_access", b"\2\0\0\0" + b"".join(struct.pack("<HHI", *e) for e in entries))
    with pytest.raises(DataDirError, match="Other users can write"):
        prepare(old)


def test_the_group_may_write_if_we_are_its_only_member(old: Path) -> None:
    os.chown(old, -1, pwd.getpwuid(os.geteuid()).pw_gid)
    old.chmod(0o775)
    prepare(old)


@AS_ROOT
def test_a_group_with_other_members_may_not_write(old: Path) -> None:
    os.chown(old, -1, pwd.getpwnam("daemon").pw_gid)
    old.chmod(0o770)
    with pytest.raises(DataDirError, match="Other users can write"):
        prepare(old)


def _open(parent: Path) -> None:
    parent.chmod(0o777)


def _give_away(parent: Path) -> None:
    os.chown(parent, STRANGER, STRANGER)


@pytest.mark.parametrize("change", [_open, pytest.param(_give_away, marks=AS_ROOT)])
def test_a_folder_in_which_others_could_replace_the_data_directory_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    change(parent)
    with pytest.raises(DataDirError, match=f"{parent}.*Choose another folder"):
        prepare(parent / "data")
    assert not (parent / "data").exists()
    assert prepare(parent / "data", checkout=parent)  # who can change the checkout can change the program


def test_a_folder_in_which_everybody_may_create_only_their_own_is_accepted(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert prepare(tmp_path / "data")


@pytest.mark.parametrize("name", ["line\nbreak", "bell\a", os.fsdecode(b"\xff")])
def test_a_name_that_cannot_be_printed_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataDirError, match="control characters") as error:
        prepare(tmp_path / name)
    assert "\n" not in str(error.value).encode().decode()


def test_a_path_that_is_too_long_for_temporals_database_is_refused_in_one_line(tmp_path: Path) -> None:
    accepted = tmp_path.joinpath(*["x" * 100] * 4)
    accepted /= "x" * (data_dir.MAX_PATH - len(str(accepted)) - 1)
    with pytest.raises(DataDirError, match=r"its path has more than 490 bytes. Choose another folder$"):
        prepare(f"{accepted}x")
    assert not accepted.with_name(f"{accepted.name}x").exists()
    assert prepare(accepted) == accepted


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataDirError, match="cannot be used"):
        prepare(tmp_path / "loop")


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirError, match="cannot be used: File exists"):
        prepare(tmp_path / "file")


def test_a_tilde_in_the_data_directory_is_a_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", "~/data")
    assert load_settings().data_dir == tmp_path / "data"
    monkeypatch.setenv("DATA_DIR", "~no-such-user/data")
    with pytest.raises(SystemExit, match=r"^Wrong setting DATA_DIR: names the home of a user, and there is none"):
        load_settings()


def test_a_data_directory_is_used_by_one_stack_at_a_time(tmp_path: Path) -> None:
    prepare(tmp_path / "data")
    with pytest.raises(DataDirError, match=r"Another `make up`, process \d+, is using .*: stop it or set DATA_DIR"):
        prepare(tmp_path / "data")


def test_the_secret_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    secret = data_dir.secret_key(tmp_path)
    assert len(secret) >= 32
    assert data_dir.secret_key(tmp_path) == secret
    assert mode(tmp_path / "secret_key") == 0o600


def test_each_data_directory_gets_its_own_secret_key(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert data_dir.secret_key(first) != data_dir.secret_key(second)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40])
def test_a_damaged_secret_key_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret_key").write_bytes(content)
    with pytest.raises(DataDirError, match=r"secret_key is damaged: restore it, or delete it, which ends all logins$"):
        data_dir.secret_key(tmp_path)


def test_a_pipe_in_the_place_of_the_secret_key_is_refused(tmp_path: Path) -> None:
    """Its writer would be waited for, and Ctrl-C would not end that."""
    os.mkfifo(tmp_path / "secret_key", 0o600)
    with pytest.raises(DataDirError, match=r"secret_key is no file"):
        data_dir.secret_key(tmp_path)


def test_a_pipe_in_the_place_of_a_log_is_refused(old: Path) -> None:
    (old / "logs" / "api.log").unlink()
    os.mkfifo(old / "logs" / "api.log", 0o600)
    with pytest.raises(DataDirError, match=r"api\.log is no file"):
        prepare(old)


def test_an_unfinished_secret_key_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret_key.new").touch(mode=0o600)
    assert len(data_dir.secret_key(tmp_path)) >= 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_the_key_before_the_last_change_is_kept_as_private_as_the_new_one(tmp_path: Path) -> None:
    assert data_dir.former_secret_keys(tmp_path) == []
    keys = [data_dir.secret_key(tmp_path)]
    for _ in range(2):
        data_dir.change_secret_key(tmp_path)
        keys.append(data_dir.secret_key(tmp_path))
        assert data_dir.former_secret_keys(tmp_path) == [keys[-2]]
    assert len(set(keys)) == 3
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {"secret_key": 0o600, "secret_key.old": 0o600}


def test_a_damaged_former_key_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "secret_key.old").write_text("short")
    with pytest.raises(DataDirError, match=r"secret_key\.old is damaged"):
        data_dir.former_secret_keys(tmp_path)


def test_logs_of_other_programs_in_the_same_folder_are_left_alone(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_dir, "MAX_LOG_SIZE", 10)
    (other := old / "logs" / "nginx.log").write_text("longer than the limit")
    for path in (other, other.parent):
        path.chmod(0o755)
    prepare(old)
    data_dir.limit_logs(old / "logs")
    assert (other.read_text(), mode(other), mode(other.parent)) == ("longer than the limit", 0o755, 0o755)


def test_a_log_that_is_too_large_begins_anew_and_keeps_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_dir, "MAX_LOG_SIZE", 10)
    (tmp_path / "small.log").write_text("short")
    with (tmp_path / "api.log").open("a") as log:
        for line in ("the first line\n", "the second line\n", "the third line\n"):
            log.write(line)
            log.flush()
            data_dir.limit_logs(tmp_path)
        log.write("end")
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {"small.log": "short", "api.log": "end", "api.log.1": "the third line\n"}
