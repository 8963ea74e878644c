"""Connections to Temporal."""

import asyncio
import contextlib
import socket
from datetime import timedelta

import pytest

from domain import temporal
from tests.conftest import make_settings


async def test_a_server_that_accepts_and_says_nothing_is_named_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(temporal, "FIRST_ANSWER_TIMEOUT", timedelta(seconds=0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = make_settings("postgresql://db.example.com/vmapi", temporal_address=address)
        async with asyncio.timeout(10):
            with pytest.raises(TimeoutError, match=f"^Temporal at {address} accepts connections and answers nothing$"):
                await temporal.connect(settings, retry_for=0.1)


async def test_a_server_whose_machine_is_gone_is_given_up_after_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the client would not come to the second address of its name."""
    monkeypatch.setattr(temporal, "CONNECT_TIMEOUT", timedelta(seconds=0.2))
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        for _ in range(3):  # the kernel drops further connections without an answer
            client = stack.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex(address)
        settings = make_settings("postgresql://db.example.com/vmapi", temporal_address=f"127.0.0.1:{address[1]}")
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="Failed client connect"):
                await temporal.connect(settings, retry_for=0.1)
