"""A small HTTP server that speaks enough of Keystone and of version discovery, and answers and fails as it is told."""

import json
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from activities.backends.openstack.errors import Service

PASSWORD = "wonderland-4711"
REQUEST_ID = "req-5e11ed"
PREFIXES = {
    Service.COMPUTE: "/compute/v2.1",
    Service.VOLUME: "/volume/v3",
    Service.NETWORK: "/network/v2.0",
    Service.IMAGE: "/image/v2",
}


@dataclass(frozen=True)
class Reply:
    """How the server answers one request. `body` is JSON, or text of the given type."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    held_by: threading.Event | None = None  # it comes once this is set
    is_cut: bool = False  # it reads the request and closes the connection
    is_truncated: bool = False  # it closes the connection in the middle of the body
    has_request_id: bool = True


HTML = {"Content-Type": "text/html"}


@dataclass(frozen=True)
class Received:
    """A request as the server received it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    query: str = ""


class CloudServer(ThreadingHTTPServer):
    """The cloud. `replies` are used up one by one for a method and path; `respond` answers what has none."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.replies: dict[tuple[str, str], deque[Reply]] = defaultdict(deque)
        self.respond: Callable[[Received], Reply] = lambda _: Reply(200, {})
        self.received: list[Received] = []
        self.microversions = {Service.COMPUTE: "2.96", Service.VOLUME: "3.71"}
        self.missing: set[Service] = set()  # from the catalogue
        self.logins: list[str] = []
        self.login_replies: deque[Reply] = deque()
        self.discovery_replies: deque[Reply] = deque()
        self.clock_ahead = 0.0
        self.guard = threading.Lock()
        self.running = 0
        self.most_at_once = 0

    def add(self, service: Service, method: str, path: str, *replies: Reply) -> None:
        """Answer the next requests of this method and path so."""
        self.replies[method, PREFIXES[service] + path].extend(replies)

    def seen(self, method: str, path: str) -> list[Received]:
        """The requests of this method whose path ends so."""
        return [request for request in self.received if request.method == method and request.path.endswith(path)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have left."""


class _Handler(BaseHTTPRequestHandler):
    server: CloudServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.server.clock_ahead)

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the library's names

    def _answer(self) -> None:
        cloud, path = self.server, self.path.partition("?")[0]
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(content) if content else None
        if path.startswith("/identity"):
            self._send(self._identity(path, body))
            return
        if path.rstrip("/").count("/") <= 2 and self.command == "GET" and "?" not in self.path and _root(path):
            self._send(cloud.discovery_replies.popleft() if cloud.discovery_replies else self._versions(path))
            return
        with cloud.guard:
            request = Received(self.command, path, dict(self.headers), body, self.path.partition("?")[2])
            cloud.received.append(request)
            waiting = cloud.replies[self.command, path]
            reply = waiting.popleft() if waiting else cloud.respond(request)
            cloud.running += 1
            cloud.most_at_once = max(cloud.most_at_once, cloud.running)
        try:
            time.sleep(reply.delay)
            if reply.held_by:
                reply.held_by.wait(30)
            self._send(reply)
        finally:
            with cloud.guard:
                cloud.running -= 1

    def _send(self, reply: Reply) -> None:
        if reply.is_cut:
            self.close_connection = True
            return
        content = b"" if reply.body is None else _encoded(reply.body)
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "X-Openstack-Request-Id": REQUEST_ID, **reply.headers}
        if not reply.has_request_id:
            del headers["X-Openstack-Request-Id"]
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if reply.is_truncated:
            content, self.close_connection = content[: len(content) // 2], True
        self.wfile.write(content)

    def _identity(self, path: str, body: Any) -> Reply:
        cloud = self.server
        if not path.endswith("/auth/tokens"):
            version = {
                "id": "v3.14",
                "status": "stable",
                "links": [{"rel": "self", "href": f"{cloud.url}/identity/v3/"}],
            }
            return Reply(200, {"version": version})
        if cloud.login_replies:
            return cloud.login_replies.popleft()
        if body["auth"]["identity"]["password"]["user"]["password"] != PASSWORD:
            return Reply(401, {"error": {"code": 401, "title": "Unauthorized", "message": "Authentication required."}})
        cloud.logins.append(f"secret-token-{len(cloud.logins) + 1}")
        return Reply(201, {"token": self._token()}, {"X-Subject-Token": cloud.logins[-1]})

    def _token(self) -> dict[str, Any]:
        types = {Service.VOLUME: "volumev3"}
        catalog = [
            {
                "type": types.get(service, service),
                "name": service,
                "id": service,
                "endpoints": [
                    {
                        "interface": "public",
                        "region": "one",
                        "region_id": "one",
                        "id": service,
                        "url": self._url(service),
                    }
                ],
            }
            for service in PREFIXES
            if service not in self.server.missing
        ]
        project = {"id": "ab" * 16, "name": "demo", "domain": {"id": "default", "name": "Default"}}
        user = {"id": "cd" * 16, "name": "alice", "domain": {"id": "default", "name": "Default"}}
        return {
            "methods": ["password"],
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2999-01-01T00:00:00.000000Z",
            "user": user,
            "project": project,
            "roles": [{"id": "member", "name": "member"}],
            "catalog": catalog,
        }

    def _url(self, service: Service) -> str:
        root = PREFIXES[service].rpartition("/")[0]
        return self.server.url + (PREFIXES[service] if service in self.server.microversions else root)

    def _versions(self, path: str) -> Reply:
        service = next(service for service, prefix in PREFIXES.items() if path.split("/")[1] == prefix.split("/")[1])
        newest = self.server.microversions.get(service, "")
        href = f"{self.server.url}{PREFIXES[service]}/"
        version = {
            "id": PREFIXES[service].rpartition("/")[2],
            "status": "CURRENT",
            "version": newest,
            "min_version": "",
        }
        if newest:
            version["min_version"] = f"{newest.partition('.')[0]}.1"
        document = version | {"links": [{"rel": "self", "href": href}]}
        return Reply(200, {"version": document} if path.count("/") == 3 else {"versions": [document]})


def _root(path: str) -> bool:
    """Whether a path is the place of a service's versions."""
    return any(path.rstrip("/") in (prefix, prefix.rpartition("/")[0]) for prefix in PREFIXES.values())


def _encoded(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


@contextmanager
def running_cloud(tls: ssl.SSLContext | None = None) -> Iterator[CloudServer]:
    """A cloud that runs in threads."""
    with CloudServer(tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
