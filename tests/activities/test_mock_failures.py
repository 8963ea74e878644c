"""The mock cloud fails on demand: by scripted faults, and by rates that hit the same operations every time."""

import asyncio
from collections.abc import Coroutine
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.faults import add_fault, clear_faults
from activities.backends.mock import calls
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from domain.rules.cloud import ServerStatus
from domain.settings import Settings
from tests.activities.cloud import count_rows, open_backend, server_row, server_spec
from tests.activities.mock_cloud import refused
from tests.activities.verbs import ON_ANY_SERVER, RESIZES, VERBS, each_verb, vm_for

ERRORS = {
    FaultMode.FAIL: ("mock_transient", True),
    FaultMode.REFUSE: ("mock_refused", False),
    FaultMode.FAIL_AFTER_EFFECT: ("mock_lost_answer", True),
}


async def cloud_of(engine: AsyncEngine, vm_id: UUID) -> tuple[object, int]:
    """Return the row of the VM's server, and how many old sizes the cloud keeps of it."""
    return await server_row(engine, vm_id), await count_rows(engine, "migrations", vm_id)


async def check_hangs(engine: AsyncEngine, call: Coroutine[object, object, object]) -> None:
    """Check that the call uses the only fault, is not answered, and can be canceled."""
    task = asyncio.create_task(call)
    async with asyncio.timeout(5):
        while await count_rows(engine, "faults"):
            assert not task.done()
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@each_verb
async def test_a_fault_fails_the_next_call_and_the_same_call_again_succeeds(
    backend: MockBackend, settings: Settings, verb: str
) -> None:
    vm_id, token = await vm_for(backend, verb), Token(uuid4(), "step")
    await add_fault(settings, verb, FaultMode.FAIL)
    await refused(VERBS[verb](backend, token, vm_id), "mock_transient", retryable=True)
    await VERBS[verb](backend, token, vm_id)


async def test_a_fault_fails_the_scripted_number_of_calls(backend: MockBackend, settings: Settings) -> None:
    vm_id, token = uuid4(), Token(uuid4(), "spawning")
    await add_fault(settings, "create_server", FaultMode.FAIL, times=3)
    for _ in range(3):
        await refused(backend.create_server(token, server_spec(vm_id)), "mock_transient", retryable=True)
    await backend.create_server(token, server_spec(vm_id))


async def test_a_permanent_fault_lasts_until_it_is_cleared(
    backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    vm_id, token = uuid4(), Token(uuid4(), "spawning")
    await add_fault(settings, "create_server", FaultMode.FAIL, times=None)
    for _ in range(5):
        await refused(backend.create_server(token, server_spec(vm_id)), "mock_transient", retryable=True)
    assert await count_rows(engine, "servers") == 0
    await clear_faults(settings)
    await backend.create_server(token, server_spec(vm_id))
    assert await count_rows(engine, "servers") == 1


async def test_a_refusal_is_not_retryable_and_has_no_effect(
    backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    await add_fault(settings, "create_server", FaultMode.REFUSE)
    await refused(backend.create_server(Token(uuid4(), "spawning"), server_spec(uuid4())), "mock_refused")
    assert await count_rows(engine, "servers") == 0


async def test_a_call_whose_answer_is_lost_takes_effect_once(
    backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    vm_id, token = uuid4(), Token(uuid4(), "networking")
    await add_fault(settings, "create_ports", FaultMode.FAIL_AFTER_EFFECT)
    create_ports = VERBS["create_ports"]
    await refused(create_ports(backend, token, vm_id), "mock_lost_answer", retryable=True)
    assert await count_rows(engine, "ports", vm_id) == 1
    await create_ports(backend, token, vm_id)
    assert await count_rows(engine, "ports", vm_id) == 1


async def test_a_call_that_is_never_answered_has_no_effect_and_can_be_canceled(
    backend: MockBackend, settings: Settings, engine: AsyncEngine
) -> None:
    token, server = Token(uuid4(), "spawning"), server_spec(uuid4())
    await add_fault(settings, "create_server", FaultMode.NEVER_ANSWER)
    await check_hangs(engine, backend.create_server(token, server))
    assert await count_rows(engine, "servers") == 0
    await backend.create_server(token, server)


@pytest.mark.parametrize("verb", RESIZES)
@pytest.mark.parametrize("mode", FaultMode)
async def test_a_resize_call_that_failed_succeeds_when_it_is_repeated(
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, verb: str, mode: FaultMode
) -> None:
    vm_id, token = await vm_for(slow_backend, verb), Token(uuid4(), "step")
    before = await cloud_of(engine, vm_id)
    await add_fault(settings, verb, mode)
    if mode is FaultMode.NEVER_ANSWER:
        await check_hangs(engine, VERBS[verb](slow_backend, token, vm_id))
    else:
        code, retryable = ERRORS[mode]
        await refused(VERBS[verb](slow_backend, token, vm_id), code, retryable=retryable)
    failed = await cloud_of(engine, vm_id)
    assert (failed == before) is (mode is not FaultMode.FAIL_AFTER_EFFECT)
    await VERBS[verb](slow_backend, token, vm_id)
    done = await cloud_of(engine, vm_id)
    assert done != before
    assert (done == failed) is (mode is FaultMode.FAIL_AFTER_EFFECT)


async def test_a_fault_affects_only_its_verb_and_its_vm(backend: MockBackend, settings: Settings) -> None:
    vm_id, other = uuid4(), uuid4()
    await add_fault(settings, "create_server", FaultMode.REFUSE, vm_id=vm_id)
    await backend.create_ports(Token(uuid4(), "networking"), Ref(vm_id), [])
    await backend.create_server(Token(uuid4(), "spawning"), server_spec(other))
    await refused(backend.create_server(Token(uuid4(), "spawning"), server_spec(vm_id)), "mock_refused")


async def test_faults_are_used_in_the_order_they_were_scripted(backend: MockBackend, settings: Settings) -> None:
    vm_id, token = uuid4(), Token(uuid4(), "spawning")
    await add_fault(settings, "create_server", FaultMode.FAIL)
    await add_fault(settings, "create_server", FaultMode.REFUSE)
    await refused(backend.create_server(token, server_spec(vm_id)), "mock_transient", retryable=True)
    await refused(backend.create_server(token, server_spec(vm_id)), "mock_refused")
    await backend.create_server(token, server_spec(vm_id))


async def test_concurrent_calls_use_each_fault_once(backend: MockBackend, settings: Settings) -> None:
    await add_fault(settings, "create_ports", FaultMode.FAIL, times=4)
    calls = (backend.create_ports(Token(uuid4(), "networking"), Ref(uuid4()), []) for _ in range(10))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert len([result for result in results if isinstance(result, BackendError)]) == 4
    assert len([result for result in results if not isinstance(result, BaseException)]) == 6


async def test_a_doomed_build_ends_in_error_even_if_it_is_repeated(settings: Settings) -> None:
    backend = await open_backend(settings, mock_error_rate=1.0, mock_build_delay=0.0)
    vm_id, token = uuid4(), Token(uuid4(), "spawning")
    await backend.create_server(token, server_spec(vm_id))
    await backend.create_server(token, server_spec(vm_id))
    server = (await backend.list_servers([Ref(vm_id)]))[vm_id]
    assert server.status is ServerStatus.ERROR
    assert server.fault
    await backend.close()


@pytest.mark.parametrize("verb", sorted(ON_ANY_SERVER))
async def test_calls_of_a_doomed_operation_always_fail_without_effect(
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, verb: str
) -> None:
    doomed_backend = await open_backend(settings, mock_error_rate=1.0)
    vm_id, token = await vm_for(slow_backend, verb), Token(uuid4(), "step")
    before = await cloud_of(engine, vm_id)
    for _ in range(2):
        await refused(VERBS[verb](doomed_backend, token, vm_id), "mock_error")
    assert await cloud_of(engine, vm_id) == before
    await doomed_backend.close()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_the_error_rate_dooms_the_same_operations_in_every_worker(settings: Settings, rate: float) -> None:
    first_worker, second_worker = (MockBackend(settings.model_copy(update={"mock_error_rate": rate})) for _ in range(2))
    ids = [UUID(int=n, version=4) for n in range(10_000)]
    doomed = [first_worker._is_doomed(id) for id in ids]
    assert doomed == [second_worker._is_doomed(id) for id in ids]
    assert sum(doomed) / len(ids) == pytest.approx(rate, abs=0.02)


async def test_every_call_has_at_most_one_transient_failure(settings: Settings, engine: AsyncEngine) -> None:
    backend = await open_backend(settings, mock_transient_rate=1.0)
    vm_id, operation_id = uuid4(), uuid4()
    for step, verb in (("networking", "create_ports"), ("spawning", "create_server")):
        token = Token(operation_id, step)
        await refused(VERBS[verb](backend, token, vm_id), "mock_transient", retryable=True)
        await VERBS[verb](backend, token, vm_id)
        await VERBS[verb](backend, token, vm_id)
    assert await count_rows(engine, "servers", vm_id) == 1
    await backend.close()


def test_the_transient_rate_is_kept() -> None:
    drawn = [calls._is_hit(f"{UUID(int=n)}/spawning", 0.25) for n in range(10_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.25, abs=0.02)
