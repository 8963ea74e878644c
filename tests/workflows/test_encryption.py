"""Workflows whose payloads are encrypted, beside histories that began before, and with keys that change."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.common import RawValue
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from domain import payload_codec
from domain.payload_codec import EncryptingCodec
from domain.payload_keys import PLAIN, PayloadKey
from domain.rules.messages import Activity
from domain.rules.states import Action
from tests.replay.record import HISTORIES
from tests.support.sandbox import sandbox
from tests.workflows.stories import failure_of
from tests.workflows.world import HANG, World, failed, refused
from worker import WORKFLOWS, SignalInterceptor

OLD, NEW = PayloadKey("2026-05", b"o" * 32), PayloadKey("2026-11", b"n" * 32)
Handle = WorkflowHandle[Any, Any]


def client_with(environment: WorkflowEnvironment, keys: Sequence[PayloadKey]) -> Client:
    """A client that has these keys."""
    client = environment.client
    converter = payload_codec.converter(keys)
    return Client(client.service_client, namespace=client.namespace, data_converter=converter)


@dataclass
class KeyedWorld(World):
    """A world whose client and workers have these keys; `queue` is that of another world."""

    keys: Sequence[PayloadKey] = ()
    queue: str | None = None

    def __post_init__(self) -> None:
        self._client = client_with(self.environment, self.keys)
        self._queue = self.queue or self._queue

    @property
    def client(self) -> Client:
        """A client with the keys."""
        return self._client


@asynccontextmanager
async def world_with(
    environment: WorkflowEnvironment, *keys: PayloadKey, queue: str | None = None
) -> AsyncIterator[KeyedWorld]:
    """A world with these keys."""
    async with KeyedWorld(environment, keys=keys, queue=queue) as world:
        yield world


async def history_of(handle: Handle) -> WorkflowHistory:
    """The history as the server keeps it."""
    return await handle.fetch_history()


def content(history: WorkflowHistory) -> bytes:
    """All bytes of a history, so that one can look for a text in it."""
    return b"".join(event.SerializeToString() for event in history.events)


async def replay(history: WorkflowHistory, *keys: PayloadKey) -> None:
    """Replay a history with these keys."""
    converter = payload_codec.converter(keys)
    options: dict[str, Any] = {"workflow_runner": sandbox(), "interceptors": [SignalInterceptor()]}
    await Replayer(workflows=WORKFLOWS, data_converter=converter, **options).replay_workflow(history)


async def test_a_history_has_no_readable_input_result_or_failure(temporal_environment: WorkflowEnvironment) -> None:
    async with world_with(temporal_environment, NEW) as world:
        world.script(Activity.WAIT_FOR_SERVER, failed("at first"), refused("in the end"))
        handle = await world.start(Action.RESIZE)
        error = await failure_of(handle)
        history = await history_of(handle)
    assert "in the end, for good" in str(error)
    raw = content(history)
    assert [text for text in (b"web-1", b"from a to b", b"for good", b"wait_for_server.py") if text in raw] == []
    assert b"2026-11" in raw
    assert b"Encoded failure" in raw
    await replay(history, NEW)


async def test_titles_and_memos_are_encrypted_too(temporal_environment: WorkflowEnvironment) -> None:
    client = client_with(temporal_environment, [NEW])
    options: dict[str, Any] = {"memo": {"note": "web-1"}, "static_summary": "web-1", "static_details": "web-1"}
    handle = await client.start_workflow("Nobody", id="of-nobody", task_queue="of-nobody", **options)
    description = await handle.describe()
    assert b"web-1" not in description.raw_description.SerializeToString()
    assert (await description.static_summary(), await description.memo()) == ("web-1", {"note": "web-1"})
    await handle.terminate()


async def test_a_workflow_that_began_in_plain_text_goes_on_encrypted(
    temporal_environment: WorkflowEnvironment,
) -> None:
    async with world_with(temporal_environment) as plain:
        plain.script(Activity.WAIT_FOR_SERVER, HANG)
        handle = await plain.start(Action.STOP)
        await plain.reached[Activity.WAIT_FOR_SERVER].wait()
    async with world_with(temporal_environment, NEW, queue=plain._queue) as encrypted:
        await encrypted.client.get_workflow_handle(handle.id).result()
        assert Activity.FINISH_OPERATION in encrypted.called()
    history = await history_of(handle)
    assert b"web-1" in content(history)
    await replay(history, NEW)


@pytest.mark.parametrize("name", ["create-succeeded", "resize-reverted", "delete-failed"])
async def test_plain_histories_replay_with_keys(name: str) -> None:
    await replay(WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text()), NEW)


@pytest.mark.parametrize("keys", [(), (PayloadKey(NEW.id, b"x" * 32),)], ids=["missing", "wrong"])
async def test_workers_without_the_key_say_so_and_lose_nothing(
    temporal_environment: WorkflowEnvironment, caplog: pytest.LogCaptureFixture, keys: tuple[PayloadKey, ...]
) -> None:
    async with world_with(temporal_environment, *keys) as without_key:
        starting = KeyedWorld(temporal_environment, keys=[NEW], queue=without_key._queue)
        handle = await starting.start(Action.STOP)
        async with asyncio.timeout(10):
            while "TEMPORAL_PAYLOAD_KEYS" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.02)
        assert without_key.calls == []
    async with world_with(temporal_environment, OLD, NEW, queue=without_key._queue) as with_key:
        await with_key.client.get_workflow_handle(handle.id).result()
        assert with_key.called()[-1] is Activity.FINISH_OPERATION


async def test_encryption_is_turned_on_and_off_while_a_workflow_runs(
    temporal_environment: WorkflowEnvironment,
) -> None:
    """With `plain` before the key, a process can read what those that encrypt already have written."""
    async with world_with(temporal_environment, PLAIN, NEW) as ready:
        ready.script(Activity.WAIT_FOR_SERVER, HANG)
        handle = await ready.start(Action.STOP)
        await ready.reached[Activity.WAIT_FOR_SERVER].wait()
    async with world_with(temporal_environment, NEW, queue=ready._queue) as encrypting:
        encrypting.script(Activity.FINISH_OPERATION, HANG)
        await encrypting.reached[Activity.FINISH_OPERATION].wait()
    async with world_with(temporal_environment, PLAIN, NEW, queue=ready._queue):
        await handle.result()
    history = await history_of(handle)
    assert b"web-1" in content(history)
    assert b"2026-11" in content(history)
    await replay(history, PLAIN, NEW)


async def test_keys_are_rotated_while_a_workflow_runs(temporal_environment: WorkflowEnvironment) -> None:
    async with world_with(temporal_environment, OLD) as before:
        before.script(Activity.WAIT_FOR_SERVER, HANG)
        handle = await before.start(Action.STOP)
        await before.reached[Activity.WAIT_FOR_SERVER].wait()
    async with world_with(temporal_environment, NEW, OLD, queue=before._queue) as after:
        await after.client.get_workflow_handle(handle.id).result()
    history = await history_of(handle)
    raw = content(history)
    assert b"2026-05" in raw
    assert b"2026-11" in raw
    await replay(history, NEW, OLD)


async def test_what_a_worker_shows_now_is_encrypted(temporal_environment: WorkflowEnvironment) -> None:
    """The Web UI asks the worker for the current details, and decrypts them as all else."""
    async with world_with(temporal_environment, NEW) as world:
        world.script(Activity.WAIT_FOR_SERVER, HANG)
        handle = await world.start(Action.STOP)
        await world.reached[Activity.WAIT_FOR_SERVER].wait()
        kept = await temporal_environment.client.get_workflow_handle(handle.id).query(
            "__temporal_workflow_metadata", result_type=RawValue
        )
        await handle.cancel()
        await failure_of(handle)
    assert kept.payload.metadata["encoding"] == payload_codec.ENCRYPTED
    assert b"web-1" in (await EncryptingCodec([NEW]).decode([kept.payload]))[0].data
