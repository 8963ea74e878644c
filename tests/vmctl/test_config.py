"""The file with the logins."""

import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from tests.vmctl.conftest import Command
from tests.vmctl.doubles import Service, answer, listening, problem, tokens, user
from vmctl.cli import config, session
from vmctl.cli.config import ConfigError, FileTokens

HERE, THERE = "http://127.0.0.1:8000", "https://vm.example"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "vmctl"


def test_the_file_is_its_owners_alone_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        FileTokens(HERE).write(tokens("1"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_file_that_others_can_read_is_refused(folder: Path) -> None:
    FileTokens(HERE).write(tokens("1"))
    (folder / "config.json").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        FileTokens(HERE).read()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "[" * 100_000, '{"url": 1}', '{"logins": 1}', f'{{"logins": {{"{HERE}": 1}}}}']
    + [f'{{"logins": {{"{HERE}": {login}}}}}' for login in ('{"a": 1}', '{"tokens": {}}')],
)
def test_a_damaged_file_is_an_error_in_words(folder: Path, text: str) -> None:
    FileTokens(HERE).write(tokens("1"))
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="log in again"):
        FileTokens(HERE).read()


def test_a_file_that_is_too_large_to_be_ours_is_an_error_in_words(folder: Path) -> None:
    FileTokens(HERE).write(tokens("1"))
    with (folder / "config.json").open("a") as opened:
        opened.write(" " * 2**20)
    with pytest.raises(ConfigError, match="log in again"):
        FileTokens(HERE).read()


def test_tokens_that_are_too_long_do_not_spoil_the_other_logins(folder: Path) -> None:
    FileTokens(HERE).write(tokens("1"))
    with pytest.raises(ConfigError, match="very long tokens"):
        FileTokens(THERE).write(tokens("a" * 2**20))
    assert FileTokens(HERE).read() == tokens("1")
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_the_tokens_of_one_service_are_not_those_of_another() -> None:
    FileTokens(HERE).write(tokens("1"))
    assert FileTokens(THERE).read() is None
    FileTokens(THERE).write(tokens("2"))
    assert FileTokens(HERE).read() == tokens("1")


def test_a_logout_forgets_one_login() -> None:
    FileTokens(HERE).write(tokens("1"))
    FileTokens(THERE).write(tokens("2"))
    config.change(HERE, None)
    assert (FileTokens(HERE).read(), FileTokens(THERE).read()) == (None, tokens("2"))


def test_one_command_at_a_time_renews_tokens() -> None:
    first, second = FileTokens(HERE), FileTokens(HERE)
    assert first.try_lock()
    assert not second.try_lock()
    first.unlock()
    assert second.try_lock()
    second.unlock()


@contextmanager
def full_disk() -> Iterator[None]:
    """Files can be made, but nothing can be written to them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_does_not_use_up_the_refresh_token(folder: Path) -> None:
    store = FileTokens(HERE)
    store.write(tokens("1"))
    expired = problem("invalid_token", 401)
    service = Service([expired, expired, answer(tokens("2").model_dump()), answer(user())])
    client = service.client(tokens=store)
    with full_disk(), pytest.raises(ConfigError, match=f"Cannot use {folder}/config.json"):
        client.account.me()
    assert [request.url.path for request in service.requests] == ["/api/v1/auth/me"]
    assert store.read() == tokens("1")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "lock"]
    client.account.me()  # there is room again
    assert store.read() == tokens("2")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "lock"]


def test_new_tokens_go_to_the_room_that_was_taken_for_them(folder: Path) -> None:
    store = FileTokens(HERE)
    store.write(tokens("a-long-name"))
    store.try_lock()
    [draft] = [path for path in folder.iterdir() if path.name not in {"config.json", "lock"}]
    assert (draft.stat().st_size > (folder / "config.json").stat().st_size, draft.stat().st_mode & 0o77) == (True, 0)
    taken = draft.stat().st_ino
    store.write(tokens("2"))
    store.unlock()
    assert (folder / "config.json").stat().st_ino == taken
    assert (folder / "config.json").read_text().endswith("}")
    assert store.read() == tokens("2")


def test_renewals_that_are_killed_leave_one_file_at_most(folder: Path) -> None:
    for _ in range(3):
        killed = FileTokens(HERE)
        killed.write(tokens("1"))
        killed.try_lock()
        assert killed._lock is not None
        os.close(killed._lock)  # as the end of the process does it
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "config.json.new", "lock"]


@pytest.mark.parametrize("is_link", [False, True])
def test_new_tokens_do_not_go_to_a_file_that_was_there_before(folder: Path, *, is_link: bool) -> None:
    """In a folder that others may write to, somebody could make it and read it."""
    store = FileTokens(HERE)
    store.write(tokens("1"))
    theirs = folder / ("theirs" if is_link else "config.json.new")
    theirs.touch(0o666)
    if is_link:
        (folder / "config.json.new").symlink_to(theirs)
    with theirs.open() as opened:
        store.try_lock()
        store.write(tokens("2"))
        store.unlock()
        assert opened.read() == ""
    assert (store.read(), (folder / "config.json").stat().st_mode & 0o77) == (tokens("2"), 0)


def test_a_renewal_by_somebody_else_leaves_no_file_behind(folder: Path) -> None:
    store = FileTokens(HERE)
    store.write(tokens("1"))
    store.try_lock()
    store.unlock()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "lock"]


def test_a_folder_that_cannot_be_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", os.devnull)
    assert config.read() == {}
    for write in (lambda: config.change(HERE, {"username": "ada"}), FileTokens(HERE).try_lock):
        with pytest.raises(ConfigError, match=r"Cannot use /dev/null/vmctl/config\.json: "):
            write()


def test_a_file_that_cannot_be_read_is_an_error_in_words(folder: Path) -> None:
    (folder / "config.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Cannot use "):
        config.read()


def test_a_user_without_a_folder_needs_none_for_a_token(alone: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with any user id."""
    monkeypatch.setattr(config, "user_config_path", Mock(side_effect=RuntimeError("no home")))
    alone.environment["VMCTL_TOKEN"] = "vma_1"
    with listening(Service(lambda _: answer(user()))) as alone.environment["VMCTL_URL"]:
        alone.run("whoami")
    del alone.environment["VMCTL_TOKEN"]
    with listening(Service(lambda _: answer(tokens("1").model_dump()))) as alone.environment["VMCTL_URL"]:
        refused = alone.run("login", "-u", "ada", "--password-stdin", input="secret\n", code=1)
    assert "Set HOME or XDG_CONFIG_HOME" in refused.stderr


def test_a_write_that_fails_leaves_the_old_file(folder: Path) -> None:
    FileTokens(HERE).write(tokens("1"))
    with pytest.raises(TypeError):
        config.write({"url": object()})
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert json.loads((folder / "config.json").read_text())["logins"]


@pytest.mark.parametrize("username", ["bob", None])
def test_a_login_or_logout_while_another_command_renews_stays(username: str | None) -> None:
    """Else the command that renews would put its tokens back, and later commands would act as somebody else."""
    store = FileTokens(HERE)
    store.write(tokens("alice's"))
    new = tokens("alice's new")
    login = {"username": username, "tokens": tokens("bob's").model_dump()} if username else None

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/auth/refresh"):
            config.change(HERE, login)
            return answer(new.model_dump())
        is_new = request.headers["Authorization"] == f"Bearer {new.access_token}"
        return answer(user()) if is_new else problem("invalid_token", 401)

    Service(serve).client(tokens=store).account.me()
    assert store.read() == (tokens("bob's") if username else None)


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [("database_unavailable", 503, 1), ("login_required", 403, 1), ("invalid_token", 401, 0)],
)
def test_a_logout_that_the_service_did_not_carry_out_keeps_the_login(
    alone: Command, monkeypatch: pytest.MonkeyPatch, code: str, status: int, exit_code: int
) -> None:
    """Without its tokens, nobody could end it any more."""
    monkeypatch.setattr(session, "_PATIENCE", 0.0)
    alone.environment["XDG_CONFIG_HOME"] = os.environ["XDG_CONFIG_HOME"]
    with listening(Service(repeat(problem(code, status)))) as url:
        FileTokens(url).write(tokens("1"))
        alone.run("--url", url, "logout", code=exit_code)
        assert (FileTokens(url).read() is None) == (exit_code == 0)


def test_changes_of_commands_that_run_at_once_all_stay() -> None:
    places = [f"https://{number}.example" for number in range(8)]
    code = (
        "import sys; from vmctl.cli import config\nfor n in range(50): config.change(sys.argv[1], {'username': str(n)})"
    )
    commands = [subprocess.Popen([sys.executable, "-c", code, place]) for place in places]
    assert [command.wait() for command in commands] == [0] * len(places)
    assert config.read()["logins"] == {place: {"username": "49"} for place in places}
