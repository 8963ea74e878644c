"""A worker shows by the age of a file that it works; the health check of its container looks at it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from domain import temporal
from tests.support.waiting import poll


@contextlib.asynccontextmanager
async def shown(client: Client, file: Path | None) -> AsyncIterator[None]:
    """Let a worker with this client show its health."""
    task = asyncio.create_task(temporal.show_health(client, file))
    try:
        yield
        assert not task.done() or file is None
    finally:
        task.cancel()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of WORKER_HEALTH_FILE, which a worker touches all the time."""
    monkeypatch.setattr(temporal, "HEALTH_PAUSE", 0.01)
    return tmp_path / "healthy"


async def touched(file: Path) -> int:
    """When the file was touched; 0 if it does not exist."""
    return await asyncio.to_thread(lambda: file.stat().st_mtime_ns if file.exists() else 0)


async def test_the_file_is_touched_again_and_again_while_temporal_answers(temporal: Client, file: Path) -> None:
    async with shown(temporal, file):
        first = await poll(lambda: touched(file), bool)
        await poll(lambda: touched(file), lambda latest: latest > first)


async def test_the_file_is_not_touched_while_temporal_does_not_answer(
    temporal: Client, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered(**_: object) -> bool:
        raise RPCError("no answer", RPCStatusCode.UNAVAILABLE, b"")

    monkeypatch.setattr(temporal.service_client, "check_health", unanswered)
    async with shown(temporal, file):
        await asyncio.sleep(0.3)
        assert await touched(file) == 0


async def test_a_file_that_cannot_be_touched_is_logged_once_and_tried_again(
    temporal: Client, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = file.parent / "missing" / "healthy"
    async with shown(temporal, file):
        await poll(lambda: asyncio.sleep(0, len(caplog.records)), bool)
        await asyncio.sleep(0.1)
        file.parent.mkdir()
        await poll(lambda: touched(file), bool)
    [record] = caplog.records
    assert record.getMessage().startswith("WORKER_HEALTH_FILE cannot be touched, so a health check fails: [Errno 2]")


async def test_without_the_setting_no_file_is_touched(temporal: Client) -> None:
    async with shown(temporal, None):
        await asyncio.sleep(0)
