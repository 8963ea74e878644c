"""The target of faults: real processes that are restarted as in `make up`, with proxies between them."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
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
from migrations import embedded_postgres, embedded_temporal
from migrations.children import Child
from tests.faults.proxy import Proxy
from tests.support.logs import FOLDERS
from tests.support.stack import QUICK_CLOUD, free_ports
from tests.support.waiting import poll

WORKERS = ("worker-1", "worker-2")
PATIENCE = 60.0  # seconds; the longest outage of PostgreSQL is half as long
_IS_AWAY = (
    OSError,  # a TimeoutError, too
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)


@dataclass
class Cluster:
    """An API, two workers, PostgreSQL and Temporal; `links` are the proxies through which they reach each other."""

    data_dir: Path
    temporal_port: int
    ui_port: int
    api_port: int
    delays: dict[str, str] = field(default_factory=lambda: QUICK_CLOUD)
    parts: dict[str, Child] = field(default_factory=dict)
    links: dict[str, Proxy] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address of the API, behind its proxy."""
        return f"http://127.0.0.1:{self.links['client-api'].port}/api/v1"

    async def sql(self, query: str, *arguments: object) -> list[Any]:
        """The rows of a query, without the proxy. It may run twice: it is repeated while PostgreSQL is away or busy."""
        give_up_at = time.monotonic() + PATIENCE
        while True:
            try:
                async with self.connection() as connection:
                    return list(await connection.fetch(query, *arguments, timeout=PATIENCE))
            except _IS_AWAY:
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(0.2)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection to the database, without the proxy."""
        connection = await asyncpg.connect(host=str(self._socket_dir), user="postgres", database="vmapi", timeout=5)
        try:
            yield connection
        finally:
            connection.terminate()

    async def temporal(self) -> Client:
        """A client of Temporal, without the proxy."""
        return await Client.connect(f"127.0.0.1:{self.temporal_port}", lazy=True)

    async def is_ready(self) -> bool:
        """Whether the API reports that it is ready; asked without the proxy."""
        url = f"http://127.0.0.1:{self.api_port}/api/v1/health/ready"
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(timeout=2) as http:
                return (await http.get(url)).status_code == 200
        return False

    async def until_ready(self) -> None:
        """Wait until the API reports that it is ready."""
        await poll(self.is_ready, bool, interval=0.05)

    def pids(self, part: str) -> list[int]:
        """The processes of a part; of `postgres` also its backends, of `backend` only those."""
        child = self.parts["postgres" if part == "backend" else part].process
        if child is None or child.returncode is not None:
            return []
        own = [] if part == "backend" else [child.pid]
        return [*own, *_children(child.pid)] if part in {"postgres", "backend"} else own

    def signal(self, number: signal.Signals, *pids: int) -> None:
        """Send a signal to those processes that exist."""
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
            await server.until(server.does_not_serve)
        embedded_temporal.keep_state(self.data_dir)  # or a Temporal that is killed would begin with nothing
        socket = self._socket_dir / embedded_postgres.SOCKET_NAME
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
            self.parts[name] = Child(name, command, logs, stop_timeout=8, options=options).start()
        await self.until_ready()

    async def stop(self) -> None:
        """Stop everything, in reverse order."""
        for part in reversed(self.parts.values()):
            self.signal(signal.SIGCONT, *self.pids(part.name))  # a frozen process would ignore the stop signal
            await part.stop()
        for link in self.links.values():
            await link.stop()
        FOLDERS.discard(self.data_dir / "logs")

    def _servers(self, logs: Path) -> Iterator[Child]:
        settings = Settings(_env_file=None, temporal_port=self.temporal_port, temporal_ui_port=self.ui_port)
        yield local.postgres_server(self.data_dir, embedded_postgres.init_cluster(self.data_dir), logs)
        yield local.temporal_server(settings, self.data_dir, logs)

    @property
    def _socket_dir(self) -> Path:
        return embedded_postgres.socket_dir_of(self.data_dir / "postgres")

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
    """Run a cluster in a folder; `delays` are settings of the mock cloud."""
    temporal_port, ui_port, api_port = free_ports(3)
    cluster = Cluster(data_dir, temporal_port, ui_port, api_port, QUICK_CLOUD | delays)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
