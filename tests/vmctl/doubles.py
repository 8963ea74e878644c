"""A service that answers what a test wants, and notes what it was asked."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import NAMESPACE_DNS, uuid4, uuid5

import httpx

from vmctl.client import Client
from vmctl.client.models import Operation, OperationStatus, TokenPair

URL = "http://service.example"
NOW = "2026-11-27T12:00:00Z"
Handler = Callable[[httpx.Request], httpx.Response]


class Service:
    """Answers with a function, or with one answer after the other; an exception is raised instead of an answer."""

    def __init__(self, answers: Handler | Iterable[httpx.Response | Exception]) -> None:
        self._handler = answers if callable(answers) else None
        self._answers = iter(()) if callable(answers) else iter(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        self.requests.append(request)
        if self._handler:
            return self._handler(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options: Any) -> Client:
        """A client of this service."""
        return Client(URL, transport=httpx.MockTransport(self), **options)

    def keys(self) -> list[str | None]:
        """The Idempotency-Key of each request."""
        return [request.headers.get("Idempotency-Key") for request in self.requests]


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """Let the service listen on a port of this machine, at the URL that this yields. It can also be a proxy."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            response = service(httpx.Request(self.command, self.path, content=self.rfile.read(length)))
            content = response.read()
            self.send_response(response.status_code)
            self.send_header("Content-Type", response.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            if location := response.headers.get("Operation-Location"):
                self.send_header("Operation-Location", location)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that the server looks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def answer(body: object, status: int = 200, **headers: str) -> httpx.Response:
    """An answer with a JSON body; `Retry_After` is the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, text=json.dumps(body), headers={"Content-Type": "application/json", **named})


def problem(code: str, status: int, **headers: str) -> httpx.Response:
    """The answer to a request that is refused."""
    body: dict[str, object] = {
        "type": f"/problems#{code}",
        "title": code,
        "status": status,
        "detail": f"It is {code}.",
        "code": code,
    }
    named = {"Content_Type": "application/problem+json", **headers}
    return answer(body | {"instance": "/", "request_id": "r-1"}, status, **named)


def operation(status: OperationStatus = OperationStatus.SUCCEEDED, **fields: object) -> dict[str, Any]:
    """The body of an operation."""
    ended = None if status in {OperationStatus.QUEUED, OperationStatus.RUNNING} else NOW
    body = dict.fromkeys(Operation.model_fields)
    known: dict[str, Any] = {
        "id": str(uuid4()),
        "action": "create",
        "status": status,
        "resource_type": "vm",
        "project_id": str(uuid4()),
        "actor": "ada",
    }
    known |= {
        "parameters": {},
        "resource_id": str(uuid4()),
        "progress": 0,
        "attempt": 1,
        "request_id": "r-1",
        "workflow_id": "w-1",
    }
    return body | known | {"created_at": NOW, "finished_at": ended} | fields


def user() -> dict[str, Any]:
    """The body of a profile."""
    return {"id": str(uuid4()), "username": "ada", "email": "ada@example.com", "created_at": NOW, "role": "user"}


def projects(*names: str) -> dict[str, Any]:
    """The body of a list of projects. Each process makes the same ids, because they are in names of tests."""
    more = {"personal": False, "role": "owner", "created_at": NOW}
    return {
        "items": [{"id": str(uuid5(NAMESPACE_DNS, name)), "name": name, **more} for name in names],
        "next_cursor": None,
    }


def tokens(name: str) -> TokenPair:
    """The tokens of a login."""
    return TokenPair(access_token=f"access-{name}", refresh_token=f"refresh-{name}", token_type="bearer", expires_in=60)
