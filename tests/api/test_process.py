"""The API process: start, shutdown, an outage of its database."""

import asyncio
import gc
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import local
from api import __main__ as main
from api.app import create_app
from api.background import housekeeping
from domain import logs, temporal
from domain.data import database
from domain.settings import Settings
from migrations import embedded_postgres
from migrations.__main__ import migrate
from tests.api.conftest import person, running
from tests.conftest import make_settings
from tests.support.stack import free_ports


def test_the_process_does_not_start_without_a_secret_key(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SECRET_KEY"}
    result = subprocess.run(
        [sys.executable, "-m", "api"],
        env=environment | {"PYTHONPATH": str(local.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("SECRET_KEY is not set")


def test_create_app_refuses_settings_without_a_secret_key() -> None:
    with pytest.raises(SystemExit, match="SECRET_KEY is not set"):
        create_app(make_settings("postgresql://unused/unused", secret_key=None))


def test_the_garbage_collector_leaves_out_what_stays_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = []
    monkeypatch.setattr(main, "load_settings", lambda: make_settings("postgresql://unused/unused"))
    monkeypatch.setattr(logs, "configure", lambda _level: None)
    monkeypatch.setattr(temporal, "forward_logs", lambda: None)
    monkeypatch.setattr(asyncio, "run", lambda check: check.close())
    monkeypatch.setattr(main, "serve", lambda *_arguments: frozen.append(gc.get_freeze_count()))
    try:
        main.main()
    finally:
        gc.unfreeze()
    assert frozen[0] > 0


async def test_the_process_serves_requests_logs_them_and_ends_on_sigterm(settings: Settings) -> None:
    [port], secret = free_ports(1), secrets.token_urlsafe(48)
    environment = {"DATABASE_URL": settings.database_url, "SECRET_KEY": secret, "API_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api"), cwd=local.ROOT, env=os.environ | environment, stderr=subprocess.PIPE
    )
    assert process.stderr
    async with asyncio.timeout(30):
        while b"Uvicorn running" not in (line := await process.stderr.readline()):
            assert line
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1") as http:
            assert (await http.get("/health/live")).status_code == 200
            answer = await http.get("/vms?token=hidden", headers={"X-Request-Id": "the-request"})
        assert answer.status_code == 401
        assert "server" not in answer.headers
        logged = (await process.stderr.readline()).decode()
        what = r"[\d-]+T[\d:.]+Z INFO api.web.middleware GET /api/v1/vms 401 [\d.]+ms 127.0.0.1"
        assert re.fullmatch(what + r" request_id=the-request operation_id=- user=-\n", logged)
        process.terminate()
        rest = (await process.stderr.read()).decode()
        await process.wait()
    assert "Traceback" not in rest
    assert secret not in rest


class Server:
    """A PostgreSQL server that can be killed and started again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.socket_dir = embedded_postgres.init_cluster(data_dir)
        self.start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = embedded_postgres.server_command(self.data_dir, self.socket_dir)
        return subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill it without a shutdown, as in a power failure."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        """Start it, again and again until the locks of the killed one are gone."""
        self.process = self._start()
        ready = embedded_postgres.ready_command(self.socket_dir)
        while subprocess.run(ready, check=False, timeout=30).returncode:
            if self.process.poll() is not None:
                self.process = self._start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A PostgreSQL server for one test."""
    server = Server(tmp_path)
    yield server
    server.process.terminate()
    server.process.wait()


@pytest.mark.delivers
async def test_requests_get_503_while_the_database_is_unavailable_and_succeed_after_that(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"temporal_address": "127.0.0.1:1", "db_api_role": embedded_postgres.API_ROLE}
    settings = make_settings(embedded_postgres.database_url(server.socket_dir), **values)
    await migrate(settings)
    engine = database.create_engine(settings)
    async with running(settings) as app:
        ada = await person(app, engine, settings, "ada")
        vm = await ada.create()
        stop = asyncio.Event()
        callers = [asyncio.create_task(_read_until(ada.http, vm["id"], stop)) for _ in range(8)]
        await asyncio.sleep(0.1)
        server.kill()
        await asyncio.sleep(1)
        readiness = await ada.http.get("/health/ready")
        await asyncio.to_thread(server.start)
        stop.set()
        statuses = set().union(*await asyncio.gather(*callers))
        assert statuses == {200, 503}
        assert readiness.json()["checks"]["postgres"]["status"] == "unavailable"
        async with asyncio.timeout(10):
            while (await ada.http.get(f"/vms/{vm['id']}")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await ada.create("after")
    await engine.dispose()
    lines = [record.message for record in caplog.records if record.name == "api.background.dispatcher"]
    assert sum("Postgres is unavailable" in line for line in lines) == 1


async def test_no_connection_stays_that_a_task_has_made_while_it_was_ending(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is told to stop would wait for it for ever."""
    has_begun, kept = asyncio.Event(), list[AsyncConnection]()

    async def connect_late(engine: AsyncEngine, *_: object) -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            kept.append(await engine.connect())

    monkeypatch.setattr(housekeeping, "run", connect_late)
    async with running(settings):
        await has_begun.wait()
    [connection] = kept
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver
    assert driver.is_closed()
    await connection.invalidate()
    await connection.close()


async def _read_until(http: Any, vm_id: str, stop: asyncio.Event) -> set[int]:
    """Read the VM again and again, and return the status codes of the answers."""
    statuses = set()
    while not stop.is_set():
        answer = await http.get(f"/vms/{vm_id}")
        statuses.add(answer.status_code)
        if answer.status_code == 503:
            assert answer.json()["code"] == "database_unavailable"
            assert answer.headers["Retry-After"] == "1"
        await asyncio.sleep(0.01)
    return statuses
