"""Several servers in DATABASE_URL: the one that takes changes is found, whatever the others do."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from domain.data import database
from migrations import embedded_postgres
from tests.conftest import make_settings
from tests.support import pgbouncer
from tests.support.names import of_addresses
from tests.support.waiting import block_until


@contextmanager
def server(data_dir: Path, *options: str) -> Iterator[Path]:
    """Run a second server; yields its socket directory."""
    socket_dir = embedded_postgres.init_cluster(data_dir)
    command = [*embedded_postgres.server_command(data_dir, socket_dir), "-F", *options]
    process = subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL)
    ready = embedded_postgres.ready_command(socket_dir)
    block_until(lambda: subprocess.run(ready, check=False).returncode == 0)
    yield socket_dir
    process.send_signal(signal.SIGINT)  # on SIGTERM it would wait for the connections of PgBouncer
    process.wait()


async def folder_of(url: str) -> Path:
    """The data directory of the server that a new pool connects to."""
    engine = database.create_engine(make_settings(url))
    async with engine.connect() as connection:
        folder = await connection.scalar(text("SHOW data_directory"))
    await database.close(engine)
    return Path(str(folder))


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """The port of a server that accepts connections and says nothing, as one whose machine hangs."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()


async def relay(address: str, socket_dir: Path, port: int = 0) -> asyncio.Server:
    """Listen on an address and pass every connection on to the server in a folder."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await asyncio.open_unix_connection(socket_dir / embedded_postgres.SOCKET_NAME)
        await asyncio.gather(pump(reader, server[1]), pump(server[0], writer), return_exceptions=True)

    return await asyncio.start_server(serve, address, port)


def after_a_silent_one(port: int, postgres: Path, timeout: int) -> str:
    """DATABASE_URL of a server that says nothing and of one that works."""
    places = f"host=127.0.0.1,{postgres}&port={port},{embedded_postgres.PORT}"
    return f"postgresql://postgres@/postgres?{places}&connect_timeout={timeout}"


async def test_a_server_that_does_not_answer_leaves_time_for_the_next_one(silent: int, postgres: Path) -> None:
    engine = database.create_engine(make_settings(after_a_silent_one(silent, postgres, 1)))
    async with engine.connect():
        async with asyncio.timeout(0.9):  # the next connection begins with the server that worked
            async with engine.connect():
                pass
    await database.close(engine)


async def test_a_caller_with_less_time_than_a_connect_reaches_the_next_server_the_second_time(
    silent: int, postgres: Path
) -> None:
    engine = database.create_engine(make_settings(after_a_silent_one(silent, postgres, 60)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await engine.connect()
    async with asyncio.timeout(10):
        async with engine.connect():
            pass
    await database.close(engine)


@pytest.mark.parametrize("parameters", ["", "&pgbouncer=true", "&target_session_attrs=primary"])
async def test_each_address_of_a_name_is_a_server(
    silent: int, postgres: Path, monkeypatch: pytest.MonkeyPatch, parameters: str
) -> None:
    """The first address refuses connections, the second one is silent."""
    monkeypatch.setattr(socket, "getaddrinfo", of_addresses("127.0.0.71", "127.0.0.1", "127.0.0.72"))
    async with await relay("127.0.0.72", postgres, silent):
        url = f"postgresql://postgres@db.example.com:{silent}/postgres?connect_timeout=1{parameters}"
        engine = database.create_engine(make_settings(url))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SHOW data_directory")) == str(postgres)
            async with asyncio.timeout(0.9):  # the next connection begins with the address that worked
                async with engine.connect():
                    pass
        await database.close(engine)


async def test_of_the_addresses_of_a_name_the_one_that_takes_changes_is_used(
    tmp_path: Path, postgres: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", of_addresses("127.0.0.71", "127.0.0.72"))
    with server(tmp_path, "-cdefault_transaction_read_only=on") as other:
        async with await relay("127.0.0.71", other) as first:
            port = first.sockets[0].getsockname()[1]
            async with await relay("127.0.0.72", postgres, port):
                assert await folder_of(f"postgresql://postgres@db.example.com:{port}/postgres") == postgres


async def test_servers_that_the_environment_names_are_tried_in_the_same_way(
    silent: int, postgres: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", f"127.0.0.1,{postgres}")
    monkeypatch.setenv("PGPORT", f"{silent},{embedded_postgres.PORT}")
    assert await folder_of("postgresql://postgres@/postgres?connect_timeout=1") == postgres


async def test_an_error_of_a_server_is_shown_rather_than_that_another_one_is_away(postgres: Path) -> None:
    places = f"host={postgres},127.0.0.1&port={embedded_postgres.PORT},1"
    engine = database.create_engine(make_settings(f"postgresql://postgres@/nowhere?{places}"))
    with pytest.raises(DBAPIError, match='database "nowhere" does not exist'):
        await engine.connect()
    await database.close(engine)


@pgbouncer.needs_pgbouncer
async def test_of_several_pgbouncers_the_one_in_front_of_the_server_that_can_write_is_used(
    tmp_path: Path, postgres: Path
) -> None:
    """PgBouncer accepts connections while its server is gone, and reports what the server was before a failover."""
    with pgbouncer.running(tmp_path / "postgres") as first, pgbouncer.running(postgres) as second:
        url = f"postgresql://postgres@/postgres?host={first},{second}&port={pgbouncer.PORT}&pgbouncer=true"
        with server(tmp_path) as primary:
            assert await folder_of(url) == primary
        with server(tmp_path, "-cdefault_transaction_read_only=on"):
            assert await folder_of(url) == postgres
            for attributes in ("any", "primary"):  # it is no standby, although its sessions are read-only
                assert await folder_of(f"{url}&target_session_attrs={attributes}") == primary
        assert await folder_of(url) == postgres
