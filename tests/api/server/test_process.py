"""The real API process: an offer to upgrade, few file descriptors, many connections."""

import asyncio
import contextlib
import os
import resource
import secrets
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Receive, Scope, Send

import local
from api.server.connections import RESERVED_FILES, most_connections
from api.server.serve import create_server
from domain.rules.states import Action, Status
from domain.settings import Settings
from tests.api.conftest import operations_of, person
from tests.api.server.conftest import HOST, Client
from tests.conftest import make_settings
from tests.support.rows import add_vm
from tests.support.stack import free_ports
from tests.support.waiting import DEADLINE, block_until

HEALTH = b"GET /api/v1/health HTTP/1.1\r\n" + HOST + b"\r\n"
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
Process = asyncio.subprocess.Process


@asynccontextmanager
async def api(files: int, **environment: str) -> AsyncIterator[tuple[Process, int]]:
    """An API process that may open this number of files, with its port; killed at the end if it still runs."""
    [port] = free_ports(1)
    settings = {"SECRET_KEY": secrets.token_urlsafe(48), "DATABASE_URL": NO_DATABASE, "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"ulimit -n {files} && exec '{sys.executable}' -m api"),
        cwd=local.ROOT,
        env=os.environ | settings | environment | {"API_PORT": str(port)},
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr
        async with asyncio.timeout(DEADLINE):
            while b"Uvicorn running" not in (line := await process.stderr.readline()):
                assert line
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_reboot_keeps_its_type_if_the_client_offers_to_upgrade(settings: Settings, engine: AsyncEngine) -> None:
    assert settings.secret_key
    secret = settings.secret_key.get_secret_value()
    ada = await person(FastAPI(), engine, settings, "ada")
    async with engine.begin() as tx:
        vms = [await add_vm(tx, ada.user, status=Status.ACTIVE) for _ in range(2)]
    token = ada.http.headers["Authorization"].encode()
    async with api(1024, SECRET_KEY=secret, DATABASE_URL=settings.database_url) as (_, port):
        for vm, is_split in zip(vms, (False, True), strict=True):
            client = Client(port)
            head = (
                b"POST /api/v1/vms/%b/actions/reboot HTTP/1.1\r\n%bAuthorization: %b\r\n%b"
                b"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n"
                % (str(vm.id).encode(), HOST, token, UPGRADE)
            )
            body = b'{"type":"HARD"}'
            parts = (head, body) if is_split else (head + body,)
            answer = await asyncio.to_thread(client.ask, *parts)
            assert answer.status == 202, answer.body
            assert (await asyncio.to_thread(client.ask, HEALTH)).status == 200
            client.close()
            [operation] = await operations_of(engine, vm.id)
            assert operation.action is Action.REBOOT_HARD


async def test_idle_connections_on_every_descriptor_shut_nobody_out() -> None:
    files, attackers = 200, 400
    async with api(files) as (process, port):
        limit = files - RESERVED_FILES - 30
        clients = [await asyncio.to_thread(Client, port, f"127.0.0.{10 + number % 20}") for number in range(attackers)]
        for number in range(20):
            client = await asyncio.to_thread(Client, port, "127.0.0.2")
            assert (await asyncio.to_thread(client.ask, HEALTH)).status == 200, number
            client.close()
        assert process.stderr
        async with asyncio.timeout(DEADLINE):
            while b"closed the longest waiting connections" not in (line := await process.stderr.readline()):
                assert line
        assert f"because there were {limit}: ".encode() in line
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("limits", "raised", "connections"),
    [
        ((1024, 1024), 1024, 930),
        ((1024, 4096), 4096, 4002),
        ((1024, 1_048_576), 10_094, 10_000),
        ((1024, resource.RLIM_INFINITY), 10_094, 10_000),
        ((50_000, 50_000), 50_000, 10_000),
    ],
)
def test_the_process_takes_the_descriptors_that_it_may_have_and_leaves_some_for_the_database(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: int, connections: int
) -> None:
    now = list(limits)
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: now.__setitem__(slice(None), values))
    assert most_connections(30) == connections
    assert now == [raised, limits[1]]


def test_the_process_does_not_start_with_too_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(SystemExit, match="The limit of open files is 100"):
        most_connections(30)


def test_an_application_that_does_not_start_is_not_served() -> None:
    """With uvicorn's default it would be, if it fails before it can say so: each request would fail."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        raise ValueError("a middleware cannot be made")

    [port] = free_ports(1)
    server = create_server(app, make_settings(NO_DATABASE, api_port=port))

    def run() -> None:
        with contextlib.suppress(SystemExit):
            server.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    block_until(lambda: server.started or not thread.is_alive())
    assert not server.started
