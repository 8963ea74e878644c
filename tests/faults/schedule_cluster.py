"""Real processes, each kept running as `make up` does it, with proxies between them: what faults are done to."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from temporalio.client import Client

import local
from domain.settings import Settings
from tests.conftest import make_settings
from tests.faults.proxy import Proxy
from tests.support.logs import FOLDERS
from tests.support.stack import free_ports

QUICK = {f"MOCK_{verb}_DELAY": "0.05" for verb in ("BUILD", "START", "STOP", "REBOOT", "RESIZE", "DELETE", "SNAPSHOT")}
WORKERS = ("worker-1", "worker-2")


@dataclass
class Cluster:
    """An API and two workers, PostgreSQL and Temporal; `links` are the proxies by which they reach each other."""

    data_dir: Path
    temporal_port: int
    ui_port: int
    api_port: int
    delays: dict[str, str] = field(default_factory=lambda: QUICK)
    parts: dict[str, local.Child] = field(default_factory=dict)
    links: dict[str, Proxy] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where clients find the API."""
        return f"http://127.0.0.1:{self.links['client-api'].port}/api/v1"

    def settings(self) -> Settings:
        """What the processes are told, with the true address of the database."""
        return make_settings(local.postgres_url(self._socket_dir))

    async def sql(self, query: str, *arguments: object) -> list[Any]:
        """Ask the database, past the proxy."""
        async with self.connection() as connection:
            return list(await connection.fetch(query, *arguments))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection to the database, past the proxy."""
        connection = await asyncpg.connect(host=str(self._socket_dir), user="postgres", database="vmapi", timeout=5)
        try:
            yield connection
        finally:
            connection.terminate()

    async def temporal(self) -> Client:
        """A client of Temporal, past the proxy."""
        return await Client.connect(f"127.0.0.1:{self.temporal_port}", lazy=True)

    async def is_ready(self) -> bool:
        """Whether the API says so, asked past the proxy."""
        url = f"http://127.0.0.1:{self.api_port}/api/v1/health/ready"
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(timeout=2) as http:
                return (await http.get(url)).status_code == 200
        return False

    async def until_ready(self) -> None:
        """Wait for the API to say so."""
        async with asyncio.timeout(60):
            while not await self.is_ready():  # noqa: ASYNC110 - another process sets no asyncio.Event
                await asyncio.sleep(0.05)

    def pids(self, part: str) -> list[int]:
        """The process that the part is, and those it has made; of `backend` those alone."""
        child = self.parts["postgres" if part == "backend" else part].process
        if child is None or child.returncode is not None:
            return []
        own = [] if part == "backend" else [child.pid]
        return [*own, *_children(child.pid)] if part in {"postgres", "backend"} else own

    def signal(self, number: signal.Signals, *pids: int) -> None:
        """Send a signal to those that are there."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def start(self) -> None:
        """Start everything and wait until it is ready."""
        logs = self.data_dir / "logs"
        logs.mkdir(parents=True)
        FOLDERS.add(logs)
        self.data_dir.chmod(0o700)
        servers = list(self._servers(logs))
        for server in servers:
            self.parts[server.name] = server.start()
        for server in servers:
            while not await local._succeeds(server.probe):  # noqa: ASYNC110 - another process
                await asyncio.sleep(local.PROBE_INTERVAL)
        socket = self._socket_dir / local.POSTGRES_SOCKET
        targets: dict[str, int | Path] = {
            "client-api": self.api_port,
            "to-temporal": self.temporal_port,
            "to-postgres": socket,
        }
        self.links = {name: await Proxy(target).start() for name, target in targets.items()}
        options = local.PROCESS_OPTIONS | {"env": self._environment()}
        migrations = await asyncio.create_subprocess_exec(sys.executable, "-m", "migrations", **options)
        assert await migrations.wait() == 0
        for name, module in {**dict.fromkeys(WORKERS, "worker"), "api": "api"}.items():
            command = [sys.executable, "-m", module]
            self.parts[name] = local.Child(name, command, logs, 8, options=options).start()
        await self.until_ready()

    async def stop(self) -> None:
        """End everything, the last first."""
        for part in reversed(self.parts.values()):
            self.signal(signal.SIGCONT, *self.pids(part.name))
            await part.stop()
        for link in self.links.values():
            await link.stop()
        FOLDERS.discard(self.data_dir / "logs")

    def _servers(self, logs: Path) -> Iterator[local.Child]:
        settings = Settings(_env_file=None, temporal_port=self.temporal_port, temporal_ui_port=self.ui_port)
        socket_dir = local.init_postgres(self.data_dir)
        yield local.Child(
            "postgres",
            [*local.postgres_command(self.data_dir, socket_dir)],
            logs,
            5,
            signal.SIGINT,
            [str(local.POSTGRES_BIN / "pg_isready"), "-h", str(socket_dir), "-p", "5432", "-U", "postgres"],
            local.POSTGRES_OPTIONS,
            lambda: local.clear_after_crash(self.data_dir / "postgres", socket_dir),
        )
        command = local.temporal_command(self.data_dir / "temporal.db", settings)
        yield local.Child("temporal", command, logs, 4, probe=local.retention_command(settings))

    @property
    def _socket_dir(self) -> Path:
        return local.postgres_socket_dir(self.data_dir / "postgres")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.delays,
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{self.links['to-postgres'].port}/vmapi",
            "TEMPORAL_ADDRESS": f"127.0.0.1:{self.links['to-temporal'].port}",
            "API_PORT": str(self.api_port),
            "SECRET_KEY": secrets.token_urlsafe(48),
        }


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@asynccontextmanager
async def running(data_dir: Path, **delays: str) -> AsyncIterator[Cluster]:
    """A cluster that keeps everything in a folder, between its start and its end; `delays` are settings."""
    temporal_port, ui_port, api_port = free_ports(3)
    cluster = Cluster(data_dir, temporal_port, ui_port, api_port, QUICK | delays)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
