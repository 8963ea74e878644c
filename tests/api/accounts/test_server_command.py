"""`python -m api.admin`: admins and accounts that only somebody on the server makes."""

import asyncio
import io
from pathlib import Path
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from api import admin
from domain.commands.audit import SERVER
from domain.data.accounts import User
from domain.data.audit import AuditEvent
from domain.rules.accounts import Event, Role
from domain.settings import Settings
from migrations import embedded_postgres
from tests.api.accounts.conftest import log_in
from tests.api.conftest import PASSWORD, Person


@pytest.fixture(autouse=True)
def of_this_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings) -> None:
    """The command reads its settings from the environment; there is no `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", settings.database_url)


async def run(*arguments: str) -> None:
    """Run the command, which has an event loop of its own."""
    await asyncio.to_thread(admin.main, list(arguments))


async def events(engine: AsyncEngine) -> list[tuple[str, str | None, str | None]]:
    """The events in the audit."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(AuditEvent).order_by(AuditEvent.at))
        return [(row.event, row.actor, row.target) for row in rows]


async def test_a_user_is_made_an_admin_and_a_user_again(
    ada: Person, engine: AsyncEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    await run("grant", "ADA")
    assert capsys.readouterr().out == "ada is an admin now.\n"
    assert (await ada.http.get("/admin/users")).status_code == 200
    await run("grant", "ada")
    await run("revoke", "ada")  # even the last one: somebody on the server can make another
    assert (await ada.http.get("/admin/users")).status_code == 403
    assert await events(engine) == [(Event.CHANGE_ROLE, SERVER, "ada")] * 2


async def test_an_account_is_made_with_a_password_that_is_in_no_argument(
    app: FastAPI, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    await run("create-user", "--admin", "grace", "grace@navy.test")
    assert (await log_in(app)).status_code == 200
    async with engine.connect() as connection:
        assert await connection.scalar(select(User.role)) == Role.ADMIN
    assert (await events(engine))[0] == (Event.CREATE_USER, SERVER, "grace")


@pytest.mark.parametrize(
    ("arguments", "typed", "line"),
    [
        (["grant", "nobody"], "", "There is no user nobody."),
        (["create-user", "ada", "new@example.com"], PASSWORD, "This username is taken."),
        (["create-user", "new", "ADA@example.com"], PASSWORD, "This email address is in use."),
        (["create-user", "new", "new@example.com"], "Password1", "Wrong password: Many people have this password"),
        (["create-user", "new", "nowhere"], PASSWORD, "Wrong email: "),
        (["create-user", "Amazing-Grace1", "new@example.com"], "Amazing-Grace1", "Wrong password: Your username"),
    ],
)
async def test_what_cannot_be_is_one_line(
    ada: Person, monkeypatch: pytest.MonkeyPatch, arguments: list[str], typed: str, line: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{typed}\n"))
    with pytest.raises(SystemExit) as end:
        await run(*arguments)
    assert str(end.value).startswith(line), ada.user.username
    assert len(str(end.value).splitlines()) == 1


async def test_two_passwords_that_differ_change_nothing(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter([PASSWORD, PASSWORD + "x"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    with pytest.raises(SystemExit, match="differ"):
        await run("create-user", "grace", "grace@navy.test")
    async with engine.connect() as connection:
        assert (await connection.scalars(select(User.id))).all() == []


def test_a_password_that_is_not_given_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-D and Ctrl-C at a terminal, an input that is closed, and one that is not UTF-8."""
    command = ["create-user", "grace", "grace@navy.test"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for end in (EOFError, KeyboardInterrupt):
        monkeypatch.setattr("getpass.getpass", Mock(side_effect=end))
        with pytest.raises(SystemExit, match="No password was given; nothing was changed"):
            admin.main(command)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit, match="Wrong password: A password has 8 to"):
        admin.main(command)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    with pytest.raises(SystemExit, match="The password cannot be read: "):
        admin.main(command)


@pytest.mark.parametrize(
    "command", [["grant", "\udcff"], ["create-user", "\udcff", "a@b.test"], ["create-user", "ada", "\udcff@b.test"]]
)
def test_an_argument_that_is_not_utf_8_is_refused_as_such(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        admin.main(command)
    assert end.value.code == 2
    assert "has characters that cannot be printed" in capsys.readouterr().err


async def test_it_finds_the_database_of_make_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    (tmp_path / "data").mkdir()
    # As `make up` makes it. If the path is too long for a socket, the folder of the socket belongs to the same user.
    embedded_postgres.make_private_folder(tmp_path / "data" / "postgres")
    monkeypatch.setenv("DATA_DIR", "data")
    with pytest.raises(SystemExit, match="Start the service first: the database does not answer"):
        await run("grant", "ada")
    assert settings.database_url


async def test_a_database_that_is_not_prepared_is_one_line(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.exec_driver_sql("DROP TABLE users CASCADE")
    with pytest.raises(SystemExit, match="or was not prepared by this version") as end:
        await run("grant", "ada")
    assert len(str(end.value).splitlines()) == 1


async def test_a_setting_of_earlier_versions_stops_it_with_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "ada")
    with pytest.raises(SystemExit, match=r"^Wrong setting ADMIN_USERNAME: is gone.*python -m api.admin grant ada$"):
        await run("grant", "ada")
