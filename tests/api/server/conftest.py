"""A running server in a thread, with an application that repeats what it got, and clients that send raw bytes."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from api.server.serve import Server, create_server
from api.web.middleware import BufferedBody, RequestContext
from tests.conftest import make_settings
from tests.support.stack import free_ports
from tests.support.waiting import DEADLINE, block_until

HOST = b"Host: api\r\n"


@dataclass
class Answer:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Client:
    """A client that sends bytes as they are."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE, source_address=(source, 0))
        self.file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        """Send each part by itself, a moment after the one before."""
        for number, part in enumerate(parts):
            if number:
                threading.Event().wait(0.05)
            self.socket.sendall(part)

    def read(self) -> Answer:
        """Read one answer with a Content-Length."""
        status = int(self.file.readline().split()[1])
        lines = iter(self.file.readline, b"\r\n")
        headers = {name.decode(): value.strip().decode() for name, _, value in (line.partition(b":") for line in lines)}
        return Answer(status, headers, self.file.read(int(headers["content-length"])))

    def ask(self, *parts: bytes) -> Answer:
        """Send a request in parts, and read its answer."""
        self.send(*parts)
        return self.read()

    def is_closed(self) -> bool:
        """Whether the server has closed the connection, or does so within a moment."""
        with contextlib.suppress(ConnectionError):
            return self.file.read(1) == b""
        return True

    def close(self) -> None:
        """Close the connection."""
        self.file.close()
        self.socket.close()


@dataclass
class Site:
    """A running server, and what its application got."""

    server: Server
    port: int
    seen: list[dict[str, Any]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    loop: asyncio.AbstractEventLoop | None = None
    clients: list[Client] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Repeat the request as JSON; /wait and /refused answer when the gate is open, /large with a megabyte.

        /begun and /broken have the gate between the head and the body of the answer; /broken fails there.
        """
        message = await receive()
        seen = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "body": message["body"].decode("latin-1"),
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
        }
        self.seen.append(seen)
        scope["is_refused"] = scope["path"] == "/refused"
        if scope["path"] in {"/wait", "/refused"}:
            await self._pass_gate()
        body = b"x" * 1_000_000 if scope["path"] == "/large" else json.dumps(seen).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] in {"/begun", "/broken"}:
            await self._pass_gate()
        if scope["path"] == "/broken":
            raise RuntimeError("broken")
        await send({"type": "http.response.body", "body": body})

    async def _pass_gate(self) -> None:
        while not self.gate.is_set():  # noqa: ASYNC110 - the gate belongs to the test's thread
            await asyncio.sleep(0.01)

    def client(self, source: str = "127.0.0.1") -> Client:
        """A new connection."""
        self.clients.append(Client(self.port, source))
        return self.clients[-1]

    def ask(self, *parts: bytes) -> Answer:
        """Send a request over a connection of its own, and read the answer."""
        return self.client().ask(*parts)

    def close_clients(self) -> None:
        """Close all connections, and wait until the server has noticed."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        block_until(lambda: not self.server.connections.count)

    def in_loop(self, call: Callable[[], None]) -> None:
        """Call something in the server's thread, and wait until it is done."""
        assert self.loop
        done = threading.Event()
        self.loop.call_soon_threadsafe(call)
        self.loop.call_soon_threadsafe(done.set)
        assert done.wait(DEADLINE)

    def pass_time(self, seconds: float) -> None:
        """End the phases that would be over after this time."""
        assert self.loop
        now = self.loop.time() + seconds
        self.in_loop(lambda: self.server.connections.sweep(now))


@contextlib.contextmanager
def running_site(**settings: Any) -> Iterator[Site]:
    """A server on a free port, stopped at the end."""
    [port] = free_ports(1)
    site: Site

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(site, receive, send)
            return
        wrapped: ASGIApp = RequestContext(BufferedBody(site), debug=False)
        await wrapped(scope, receive, send)

    server = create_server(app, make_settings("postgresql://unused/unused", api_port=port, **settings))
    site = Site(server, port)
    thread = threading.Thread(target=server.run)
    thread.start()
    block_until(lambda: server.started)
    try:
        yield site
    finally:
        site.gate.set()
        site.close_clients()
        server.should_exit = True
        thread.join()


async def _lifespan(site: Site, receive: Receive, send: Send) -> None:
    site.loop = asyncio.get_running_loop()
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


@pytest.fixture(scope="session")
def shared_site() -> Iterator[Site]:
    """A running server for all tests that need no settings of their own."""
    with running_site() as site:
        yield site


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """A running server that has got nothing yet."""
    shared_site.seen.clear()
    shared_site.gate.clear()
    yield shared_site
    shared_site.gate.set()
    shared_site.close_clients()
