"""A server that is told to stop while a request is in progress."""

import signal

import pytest

from api.server import serve
from tests.api.server.conftest import HOST, running_site
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
