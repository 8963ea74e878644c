"""A server that is told to stop while a request is in progress."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from starlette.types import Receive, Scope, Send

from api.server import serve
from api.web.middleware import RequestContext
from tests.api.server.conftest import HOST, Client, running_site
from tests.conftest import make_settings
from tests.support.stack import free_ports
from tests.support.waiting import block_until

WAIT = b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_progress_gets_an_answer_however_often_the_server_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(serve, "REQUEST_GRACE", 1)
    with running_site() as site:
        client = site.client()
        client.send(WAIT)
        block_until(lambda: site.seen)
        for _ in range(3):
            site.in_loop(lambda: site.server.handle_exit(number, None))
        answer = client.read()
    assert (answer.status, answer.json()["code"]) == (503, "shutting_down")


@pytest.mark.parametrize("told", [["SIGTERM"], ["SIGINT"], ["SIGTERM", "SIGINT", "SIGINT"]], ids="+".join)
def test_a_process_ends_when_all_requests_in_progress_have_their_answers(told: list[str]) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-c", f"from {__name__} import serve_slowly; serve_slowly({port})"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"listens\n"
            clients = [Client(port) for _ in range(5)]
            for client in clients:
                client.send(WAIT)
                assert process.stdout.readline() == b"waits\n"
            for name in told:
                process.send_signal(signal.Signals[name])
            answers = [client.read() for client in clients]
            for client in clients:
                client.close()
            _, err = process.communicate()
        finally:
            process.kill()
    assert {(answer.status, answer.json()["code"]) for answer in answers} == {(503, "shutting_down")}
    assert b"Traceback" not in err


def serve_slowly(port: int) -> None:
    """Serve requests that never end, and that take a moment to give up."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        os.write(1, b"waits\n")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)

    serve.REQUEST_GRACE = 1
    settings = make_settings("postgresql://unused/unused", api_port=port)
    tick = serve.Server.on_tick

    async def on_first_tick(self: serve.Server, counter: int) -> bool:
        """Say once that the server listens."""
        if counter == 1:
            os.write(1, b"listens\n")
        return await tick(self, counter)

    serve.Server.on_tick = on_first_tick  # type: ignore[method-assign]
    serve.serve(RequestContext(app, debug=False), settings)
