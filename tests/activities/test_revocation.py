"""Once a revocation has returned, no call of the operation takes effect, not even one that was running."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from domain.settings import Settings
from tests.activities.cloud import complete_changes, count_rows, new_ports, open_backend, server_row, server_spec
from tests.activities.mock_cloud import add_idle_server, refused
from tests.activities.verbs import VERBS, each_verb, vm_for
from tests.support.waiting import wait_until_blocked


@contextlib.asynccontextmanager
async def block_writes(engine: AsyncEngine, table: str) -> AsyncIterator[None]:
    """Block all writes to a table of the mock cloud until this ends."""
    async with engine.begin() as tx:
        await tx.execute(text(f"LOCK TABLE mock_cloud.{table} IN SHARE MODE"))
        yield


@each_verb
async def test_calls_of_a_revoked_operation_are_refused(
    slow_backend: MockBackend, engine: AsyncEngine, verb: str
) -> None:
    vm_id, token = await vm_for(slow_backend, verb), Token(uuid4(), "step")
    await slow_backend.revoke(token.operation_id)
    before = await server_row(engine, vm_id)
    await refused(VERBS[verb](slow_backend, token, vm_id), "token_revoked")
    await refused(VERBS[verb](slow_backend, Token(token.operation_id, "another"), vm_id), "token_revoked")
    assert await server_row(engine, vm_id) == before
    assert await count_rows(engine, "ports") == 0


async def test_revoking_affects_one_operation_and_may_be_repeated(backend: MockBackend, settings: Settings) -> None:
    revoked, other_worker = uuid4(), await open_backend(settings)
    await backend.revoke(revoked)
    await backend.revoke(revoked)
    await refused(other_worker.create_ports(Token(revoked, "networking"), Ref(uuid4()), []), "token_revoked")
    await other_worker.create_ports(Token(uuid4(), "networking"), Ref(uuid4()), [])
    await other_worker.close()


async def test_no_running_call_takes_effect_after_revoke_has_returned(
    backend: MockBackend, engine: AsyncEngine
) -> None:
    effects = 0
    for round in range(40):
        vm_id, operation_id = uuid4(), uuid4()
        calls = [
            asyncio.create_task(backend.create_ports(Token(operation_id, f"step-{n}"), Ref(vm_id), new_ports()))
            for n in range(5)
        ]
        if round % 2:
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(round):
            await asyncio.sleep(0)  # a little longer in each round
        await backend.revoke(operation_id)
        at_return = await count_rows(engine, "ports", vm_id)
        for call in calls:
            with contextlib.suppress(BackendError):
                await call
        assert await count_rows(engine, "ports", vm_id) == at_return
        effects += at_return
    assert 0 < effects < 40 * 5, "some calls came before the revocation, some after it"


async def test_revoke_waits_for_a_running_call(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, token = uuid4(), Token(uuid4(), "networking")
    async with block_writes(engine, "ports"):
        call = asyncio.create_task(backend.create_ports(token, Ref(vm_id), new_ports()))
        await wait_until_blocked(engine, 1)
        revoke = asyncio.create_task(backend.revoke(token.operation_id))
        await wait_until_blocked(engine, 2)
        assert not revoke.done()
    await revoke
    assert await count_rows(engine, "ports", vm_id) == 1
    await call


async def test_a_call_waits_for_a_running_revocation_and_is_refused(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, token = uuid4(), Token(uuid4(), "networking")
    async with block_writes(engine, "ports"):
        async with block_writes(engine, "revocations"):
            revoke = asyncio.create_task(backend.revoke(token.operation_id))
            await wait_until_blocked(engine, 1)
            call = asyncio.create_task(backend.create_ports(token, Ref(vm_id), new_ports()))
            await wait_until_blocked(engine, 2)
        await revoke
    await refused(call, "token_revoked")
    assert await count_rows(engine, "ports", vm_id) == 0


async def test_a_compensating_call_is_accepted_after_the_revocation(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id, operation_id = await add_idle_server(backend, engine), uuid4()
    await backend.resize_server(Token(operation_id, "resize_migrating"), server_spec(vm_id, "m1.medium"))
    await complete_changes(engine, backend, vm_id)
    await backend.revoke(operation_id)
    await refused(backend.revert_server_resize(Token(operation_id, "undo"), Ref(vm_id)), "token_revoked")
    await backend.revert_server_resize(Token(operation_id, "undo", compensates=True), Ref(vm_id))
    await complete_changes(engine, backend, vm_id)
    assert (await backend.list_servers([Ref(vm_id)]))[vm_id].has_size_of(server_spec(vm_id))
