"""Connections to PostgreSQL: which servers are refused, TLS, and closing them while the server hangs."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url, text

from domain.data import connector, database, outages
from domain.data.outages import UnusableDatabaseError
from domain.settings import Settings
from migrations import embedded_postgres
from tests.conftest import make_settings
from tests.faults.proxy import Proxy
from tests.support import pgbouncer
from tests.support.waiting import block_until


def name_of(settings: Settings) -> str:
    """The name of the test's database."""
    return str(make_url(settings.database_url).database)


async def refusal_of(settings: Settings) -> str:
    """The one line with which a process ends."""
    with pytest.raises(SystemExit) as end:
        await database.refuse_unusable(settings)
    line = str(end.value)
    assert line.startswith("The database of DATABASE_URL cannot be used: ")
    assert line.isprintable()
    return line


@pytest.fixture
async def latin1(postgres: Path, superuser: asyncpg.Connection) -> AsyncIterator[str]:
    """DATABASE_URL of a database with another encoding."""
    await superuser.execute("CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    yield embedded_postgres.database_url(postgres, "latin1")
    await superuser.execute("DROP DATABASE latin1 WITH (FORCE)")


async def test_a_database_with_another_encoding_is_refused(latin1: str) -> None:
    assert "its encoding is LATIN1; create the database with ENCODING 'UTF8'" in await refusal_of(make_settings(latin1))
    engine = database.create_engine(make_settings(latin1))
    with pytest.raises(UnusableDatabaseError, match="LATIN1"):
        await engine.connect()
    await database.close(engine)


async def test_an_old_server_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "OLDEST_VERSION", 99)
    assert "the service needs 99 or newer" in await refusal_of(settings)


async def test_a_server_setting_that_does_not_exist_is_refused(settings: Settings) -> None:
    wrong = make_settings(f"{settings.database_url}&options=-c%20no_such_setting%3Don")
    assert "no_such_setting" in await refusal_of(wrong)


async def test_a_missing_root_certificate_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "root certificate" in await refusal_of(make_settings("postgresql://127.0.0.1:1/x?sslmode=verify-full"))


@pytest.mark.parametrize(
    ("variable", "value", "url"),
    [
        ("PGPORT", "wrong", "postgresql://127.0.0.1/x"),
        ("PGHOST", "a,,b", "postgresql:///x"),
        ("PGSSLMODE", "wrong", "postgresql://db"),
    ],
)
async def test_a_wrong_variable_of_libpq_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, url: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert "a PG* variable of the environment" in await refusal_of(make_settings(url))


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/x", "postgresql://nobody@/x?host=/nowhere"])
async def test_a_server_that_does_not_answer_is_not_refused(url: str) -> None:
    await database.refuse_unusable(make_settings(url))


@pgbouncer.needs_pgbouncer
@pytest.mark.parametrize("ignored", ["", ",".join(database.SERVER_SETTINGS)], ids=["strict", "ignores our settings"])
async def test_a_pooler_that_the_url_does_not_name_is_refused(postgres: Path, settings: Settings, ignored: str) -> None:
    with pgbouncer.running(postgres, f"ignore_startup_parameters = {ignored}") as folder:
        url = pgbouncer.through(folder, name_of(settings))
        assert "add pgbouncer=true to the parameters of DATABASE_URL" in await refusal_of(make_settings(url))
        await database.refuse_unusable(make_settings(pgbouncer.through(folder, name_of(settings), pgbouncer="true")))


@pgbouncer.needs_pgbouncer
async def test_a_pgbouncer_without_transactions_is_refused(postgres: Path, settings: Settings) -> None:
    with pgbouncer.running(postgres, "pool_mode = statement") as folder:
        url = pgbouncer.through(folder, name_of(settings), pgbouncer="true")
        assert "set pool_mode to transaction or session" in await refusal_of(make_settings(url))


@pgbouncer.needs_pgbouncer
async def test_options_that_pgbouncer_refuses_are_refused_with_a_way_out(postgres: Path, settings: Settings) -> None:
    with pgbouncer.running(postgres) as folder:
        url = pgbouncer.through(folder, name_of(settings), pgbouncer="true", options="-c geqo=off")
        line = await refusal_of(make_settings(url))
    assert "ALTER ROLE" in line
    assert line.endswith("unsupported startup parameter: options)")


async def test_connections_that_the_server_has_closed_while_they_were_idle_are_replaced(settings: Settings) -> None:
    """As `idle_session_timeout` does, or a firewall, or an operator."""
    engine = database.create_engine(settings)
    async with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            await connection.execute(text("SET idle_session_timeout = '50ms'"))
            await connection.commit()
    await asyncio.sleep(0.5)
    for begin in (engine.begin, database.autocommit(engine).connect) * 2:
        async with begin() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    await database.close(engine)


LEVELS = ("repeatable read", "serializable")


@asynccontextmanager
async def preferred(settings: Settings, **preferences: str) -> AsyncIterator[None]:
    """Let the database give these settings to new sessions."""
    engine = database.create_engine(settings)
    async with database.autocommit(engine).connect() as connection:
        for name, value in preferences.items():
            await connection.execute(text(f"ALTER DATABASE \"{name_of(settings)}\" SET {name} = '{value}'"))
        yield
        await connection.execute(text(f'ALTER DATABASE "{name_of(settings)}" RESET ALL'))
    await database.close(engine)


@pytest.mark.parametrize("level", LEVELS)
async def test_transactions_see_what_others_commit_whatever_the_server_prefers(settings: Settings, level: str) -> None:
    async with preferred(settings, default_transaction_isolation=level):
        engine = database.create_engine(settings)
        for begin in (engine.begin, database.autocommit(engine).connect):
            async with begin() as connection:
                assert await connection.scalar(text("SHOW transaction_isolation")) == "read committed"
        await database.close(engine)


async def test_preferences_of_a_role_change_nothing(settings: Settings) -> None:
    ours = {
        "lock_timeout": ("10ms", "0"),
        "statement_timeout": ("50ms", "0"),
        "idle_session_timeout": ("100ms", "0"),
        "gin_fuzzy_search_limit": ("1", "0"),
        "exit_on_error": ("on", "off"),
        "standard_conforming_strings": ("off", "on"),
        "quote_all_identifiers": ("on", "off"),
    }
    async with preferred(settings, **{name: preference for name, (preference, _) in ours.items()}):
        engine = database.create_engine(settings)
        async with engine.begin() as connection:
            for name, (_, value) in ours.items():
                assert await connection.scalar(text(f"SHOW {name}")) == value
        await database.close(engine)


@pytest.mark.parametrize("options", ["", "&options=-c%20session_replication_role%3Dreplica"])
async def test_a_session_in_which_triggers_and_foreign_keys_do_nothing_is_refused_with_a_way_out(
    settings: Settings, options: str
) -> None:
    ours = make_settings(f"{settings.database_url}{options}")
    async with preferred(settings, **({} if options else {"session_replication_role": "replica"})):
        refusal = await refusal_of(ours)
    assert "its session_replication_role is replica, and the service needs origin" in refusal
    assert "ALTER ROLE ... SET session_replication_role = origin" in refusal
    await database.refuse_unusable(settings)


@pgbouncer.needs_pgbouncer
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        *(("default_transaction_isolation", level, f"its transactions are {level}, and") for level in LEVELS),
        ("lock_timeout", "2s", "its lock_timeout is 2s, and the service needs 15 s or no limit"),
        ("statement_timeout", "14999ms", "its statement_timeout is 14999ms, and the service needs 15 s or no limit"),
        ("gin_fuzzy_search_limit", "5000", "its gin_fuzzy_search_limit is 5000, and the service needs no limit"),
        ("exit_on_error", "on", "its exit_on_error is on, and the service needs off"),
        (
            "session_replication_role",
            "replica",
            "its session_replication_role is replica, and the service needs origin",
        ),
    ],
)
async def test_settings_behind_pgbouncer_that_do_not_suit_are_refused_with_a_way_out(
    postgres: Path, settings: Settings, name: str, value: str, line: str
) -> None:
    async with preferred(settings, **{name: value}):
        with pgbouncer.running(postgres) as folder:
            url = pgbouncer.through(folder, name_of(settings), pgbouncer="true")
            refusal = await refusal_of(make_settings(url))
    assert line in refusal
    assert f"ALTER ROLE ... SET {name} = " in refusal


@pgbouncer.needs_pgbouncer
async def test_limits_behind_pgbouncer_that_are_long_enough_are_not_refused(postgres: Path, settings: Settings) -> None:
    async with preferred(settings, lock_timeout="15s", statement_timeout="2min", IntervalStyle="sql_standard"):
        with pgbouncer.running(postgres) as folder:
            await database.refuse_unusable(
                make_settings(pgbouncer.through(folder, name_of(settings), pgbouncer="true"))
            )


async def test_the_name_of_the_application_and_the_options_of_the_url_reach_the_server(settings: Settings) -> None:
    url = f"{settings.database_url}&application_name=mine&options=-c%20geqo%3Doff&connect_timeout=3&sslmode=disable"
    engine = database.create_engine(make_settings(url))
    async with engine.connect() as connection:
        for setting, value in {"application_name": "mine", "geqo": "off", "jit": "off"}.items():
            assert await connection.scalar(text(f"SHOW {setting}")) == value
    await database.close(engine)


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Path]:
    """The socket directory of a second server, whose sessions are read-only."""
    socket_dir = embedded_postgres.init_cluster(tmp_path)
    command = [*embedded_postgres.server_command(tmp_path, socket_dir), "-F", "-cdefault_transaction_read_only=on"]
    server = subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL)
    ready = embedded_postgres.ready_command(socket_dir)
    block_until(lambda: subprocess.run(ready, check=False).returncode == 0)
    yield socket_dir
    server.terminate()
    server.wait()


async def test_of_several_servers_the_one_that_can_write_is_used(standby: Path, postgres: Path) -> None:
    """After a failover the first server of the URL may be the standby."""
    url = f"postgresql://postgres@/postgres?host={standby},{postgres}"
    engine = database.create_engine(make_settings(url))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW transaction_read_only")) == "off"
    await database.close(engine)


async def test_all_connections_of_a_server_that_hangs_are_closed_at_once(settings: Settings, postgres: Path) -> None:
    proxy = await Proxy(postgres / embedded_postgres.SOCKET_NAME).start()
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name_of(settings)}"
    engine = database.create_engine(make_settings(url))
    connections = [await engine.connect() for _ in range(12)]
    for connection in connections[:10]:
        await connection.close()
    silence = asyncio.create_task(proxy.silence(600))
    await asyncio.sleep(0)
    stuck = [asyncio.create_task(connection.execute(text("SELECT 1"))) for connection in connections[10:]]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10 * database.CLOSE_TIMEOUT):  # one after the other they would take twelve times as long
        await database.close(engine)
    outcomes = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(outcome, Exception) and outages.is_outage(outcome) for outcome in outcomes)
    for connection in connections[10:]:
        await connection.close()
    silence.cancel()
    await proxy.stop()


async def test_a_server_whose_disk_is_full_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(**_: object) -> None:
        raise asyncpg.InternalServerError('could not write init file "base/1/pg_internal.init"')

    monkeypatch.setattr(asyncpg, "connect", connect)
    engine = database.create_engine(settings)
    with pytest.raises(ConnectionError, match="could not write init file") as refusal:
        await engine.connect()
    assert outages.is_outage(refusal.value)
