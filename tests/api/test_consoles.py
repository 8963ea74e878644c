"""Consoles of VMs: a worker is asked, the answer passes Temporal by, and every reason for none is told in time."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import servers
from activities.backends.protocol import BackendError, ComputeBackend, Token
from activities.backends.resources import Console, Ref
from api.background import housekeeping
from api.web import consoles
from domain.data import queries
from domain.data.guests import ConsoleAnswer
from domain.data.models import VM
from domain.rules import cloud_init, console
from domain.rules.states import Status, TaskState
from domain.settings import Settings
from tests.activities.cloud import complete_changes, open_backend, server_spec
from tests.api.conftest import Person, count, person, running
from tests.conftest import make_settings
from tests.support.rows import add_vm
from tests.support.ssh_keys import new_key
from worker import make_workers

SECRET = "echo tell-nobody"
USER_DATA = cloud_init.render(f"#!/bin/sh\n{SECRET}\n", [KEY := new_key("ada@laptop")])


@pytest.fixture
async def console_settings(database_url: str, temporal: Client) -> Settings:
    """Settings with the Temporal dev server and a task queue of this test's own."""
    address = temporal.service_client.config.target_host
    return make_settings(database_url, temporal_address=address, temporal_task_queue=f"test-{uuid4()}")


@pytest.fixture
async def app(console_settings: Settings) -> AsyncIterator[FastAPI]:
    """The running application."""
    async with running(console_settings) as app:
        yield app


@pytest.fixture
async def ada(app: FastAPI, engine: AsyncEngine, console_settings: Settings) -> Person:
    """A user."""
    return await person(app, engine, console_settings, "ada")


@pytest.fixture
async def bob(app: FastAPI, engine: AsyncEngine, console_settings: Settings) -> Person:
    """Another user."""
    return await person(app, engine, console_settings, "bob")


@pytest.fixture
async def cloud(console_settings: Settings) -> AsyncIterator[MockBackend]:
    """The mock cloud."""
    backend = await open_backend(console_settings)
    yield backend
    await backend.close()


@contextlib.asynccontextmanager
async def answering(
    settings: Settings, client: Client, engine: AsyncEngine, cloud: ComputeBackend
) -> AsyncIterator[None]:
    """Let a worker answer requests for consoles."""
    async with make_workers(settings, client, engine, cloud)[-1]:
        yield


@pytest.fixture
async def worker(
    console_settings: Settings, temporal: Client, engine: AsyncEngine, cloud: MockBackend
) -> AsyncIterator[None]:
    """A worker that answers requests for consoles."""
    async with answering(console_settings, temporal, engine, cloud):
        yield


async def add_booted_vm(user: Person, engine: AsyncEngine, cloud: MockBackend, user_data: bytes | None = None) -> VM:
    """Add a VM of the user with a server that has booted."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, user.user)
    spec = server_spec(vm.id)
    await cloud.create_server(Token(uuid4(), "spawning"), spec)
    async with engine.begin() as tx:
        await tx.execute(update(servers).where(servers.c.vm_id == vm.id).values(user_data=user_data, name=vm.name))
    await complete_changes(engine, cloud, vm.id)
    return vm


async def log_of(user: Person, vm_id: UUID, **query: int) -> httpx.Response:
    """The answer to a request for the VM's log."""
    return await user.http.get(f"/vms/{vm_id}/console-log", params=query)


@pytest.mark.usefixtures("worker")
async def test_the_log_shows_keys_and_user_data_that_the_guest_got(
    ada: Person, engine: AsyncEngine, cloud: MockBackend
) -> None:
    vm = await add_booted_vm(ada, engine, cloud, USER_DATA)
    answer = await log_of(ada, vm.id)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    lines = answer.json()["output"].split("\n")
    assert (lines[0], lines[-1]) == ("Booting test-vm in the mock cloud", "test-vm login:")
    assert {SECRET, f'  - "{KEY}"', "cloud-init: text/plain", "cloud-init: text/cloud-config"} <= set(lines)
    assert answer.json()["is_truncated"] is False


@pytest.mark.usefixtures("worker")
async def test_lines_are_counted_from_the_end(ada: Person, engine: AsyncEngine, cloud: MockBackend) -> None:
    vm = await add_booted_vm(ada, engine, cloud, f"#!/bin/sh\n{SECRET}".encode())
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(name="😀" * 255))  # of which Temporal takes a part
    for count_of_lines, expected in ((1, ["test-vm login:"]), (2, [SECRET, "test-vm login:"])):
        answer = await log_of(ada, vm.id, lines=count_of_lines)
        assert answer.json()["output"].split("\n") == expected
    for wrong in (0, -1, console.MOST_LINES + 1):
        assert (await log_of(ada, vm.id, lines=wrong)).status_code == 422


@pytest.mark.usefixtures("worker")
async def test_what_a_console_shows_is_neither_in_temporal_nor_kept(
    ada: Person, engine: AsyncEngine, cloud: MockBackend, temporal: Client
) -> None:
    vm = await add_booted_vm(ada, engine, cloud, USER_DATA)
    assert SECRET in (await log_of(ada, vm.id)).json()["output"]
    assert await count(engine, ConsoleAnswer) == 0
    ids = [execution.id async for execution in temporal.list_workflows(f"VM = '{vm.id}'")]
    histories = [await temporal.get_workflow_handle(id).fetch_history() for id in ids]
    assert len(ids) == 1
    assert not any(SECRET in history.to_json() or "login" in history.to_json() for history in histories)


@pytest.mark.usefixtures("worker")
async def test_another_users_console_does_not_exist(
    ada: Person, bob: Person, engine: AsyncEngine, cloud: MockBackend
) -> None:
    vm = await add_booted_vm(ada, engine, cloud)
    assert (await log_of(bob, vm.id)).status_code == 404
    assert (await bob.http.post(f"/vms/{vm.id}/console")).status_code == 404


@pytest.mark.usefixtures("worker")
async def test_a_server_that_is_being_built_has_no_console_yet(
    ada: Person, engine: AsyncEngine, cloud: MockBackend
) -> None:
    vm = await add_booted_vm(ada, engine, cloud)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(status="BUILD"))
    for answer in (await log_of(ada, vm.id), await ada.http.post(f"/vms/{vm.id}/console")):
        assert (answer.status_code, answer.json()["code"]) == (409, "no_console")
        assert "being built" in answer.json()["detail"]


@pytest.mark.usefixtures("worker")
async def test_a_server_that_is_gone_has_no_console(ada: Person, engine: AsyncEngine, cloud: MockBackend) -> None:
    vm = await add_booted_vm(ada, engine, cloud)
    await cloud.purge(Ref(vm.id))
    assert (await log_of(ada, vm.id)).json()["code"] == "no_console"


@pytest.mark.parametrize("status", [Status.BUILDING, Status.ERROR, Status.DELETED])
async def test_nobody_is_asked_about_a_vm_without_a_server(ada: Person, engine: AsyncEngine, status: Status) -> None:
    async with engine.begin() as tx:
        task_state = TaskState.SCHEDULING if status is Status.BUILDING else None
        vm = await add_vm(tx, ada.user, status=status, task_state=task_state, launched=status is Status.DELETED)
    answer = await log_of(ada, vm.id)  # no worker runs
    assert (answer.status_code, answer.json()["code"]) == (409, "no_console")
    assert status in answer.json()["detail"]


@pytest.mark.usefixtures("worker")
async def test_the_mock_cloud_has_no_consoles_to_use(ada: Person, engine: AsyncEngine, cloud: MockBackend) -> None:
    vm = await add_booted_vm(ada, engine, cloud)
    answer = await ada.http.post(f"/vms/{vm.id}/console")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_supported_by_cloud")
    assert (await ada.http.post(f"/vms/{vm.id}/console", json={"type": "x"})).status_code == 422


class OtherCloud(MockBackend):
    """A cloud with consoles to use, whose log is long; it answers after some failures."""

    failures: tuple[BackendError, ...] = ()
    log = ""
    opened = 0

    async def get_server_console_output(self, vm: Ref, lines: int) -> str:
        del vm, lines
        if self.failures:
            first, *self.failures = self.failures  # type: ignore[assignment]
            raise first
        return self.log

    async def create_console(self, vm: Ref) -> Console:
        del vm
        self.opened += 1
        return Console("novnc", f"https://console.example/?token={self.opened}")


async def test_an_address_is_answered_once_for_each_idempotency_key(
    ada: Person, engine: AsyncEngine, cloud: MockBackend, console_settings: Settings, temporal: Client
) -> None:
    vm = await add_booted_vm(ada, engine, cloud)
    other = OtherCloud(console_settings)
    async with answering(console_settings, temporal, engine, other):
        keys: list[dict[str, str]] = [{"Idempotency-Key": "one"}, {"Idempotency-Key": "one"}, {}]
        first, again, second = [await ada.http.post(f"/vms/{vm.id}/console", headers=key) for key in keys]
    await other.close()
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-store")
    assert first.json() == again.json() == {"type": "novnc", "url": "https://console.example/?token=1"}
    assert again.headers["Idempotency-Replayed"] == "true"
    assert second.json()["url"] != first.json()["url"]


async def test_a_cloud_that_is_away_for_a_moment_is_asked_again_and_one_that_stays_away_is_named(
    ada: Person, engine: AsyncEngine, cloud: MockBackend, console_settings: Settings, temporal: Client
) -> None:
    vm = await add_booted_vm(ada, engine, cloud)
    away = BackendError("cloud_unavailable", "The cloud's compute service cannot be reached.", retryable=True)
    other = OtherCloud(console_settings)
    other.log, other.failures = "here again\n", (away,)
    async with answering(console_settings, temporal, engine, other):
        assert (await log_of(ada, vm.id)).json()["output"] == "here again"
        other.failures = (BackendError("bad_request", "The cloud refused it.", retryable=False),)
        answer = await log_of(ada, vm.id)
    await other.close()
    assert (answer.status_code, answer.json()["code"]) == (503, "cloud_unavailable")
    assert (answer.json()["detail"], answer.headers["Retry-After"]) == ("The cloud refused it.", "1")


async def test_a_log_that_is_too_long_loses_its_first_lines(
    ada: Person, engine: AsyncEngine, cloud: MockBackend, console_settings: Settings, temporal: Client
) -> None:
    vm = await add_booted_vm(ada, engine, cloud)
    other = OtherCloud(console_settings)
    other.log = "\n".join(f"{number} \x00\x1b[1m{'ü' * 100}" for number in range(5000))
    async with answering(console_settings, temporal, engine, other):
        short, long = await log_of(ada, vm.id, lines=100), await log_of(ada, vm.id, lines=5000)
    await other.close()
    assert short.json() == {"output": "\n".join(other.log.split("\n")[-100:]), "is_truncated": False}
    assert long.json()["is_truncated"] is True
    assert other.log.endswith(f"\n{long.json()['output']}")
    assert console.LARGEST - 300 < len(long.json()["output"].encode()) <= console.LARGEST


async def test_if_no_worker_answers_the_request_ends_in_time(
    ada: Person, engine: AsyncEngine, cloud: MockBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "WAIT_TIMEOUT", 0.3)
    vm = await add_booted_vm(ada, engine, cloud)
    answer = await log_of(ada, vm.id)
    assert (answer.status_code, answer.json()["code"]) == (503, "worker_unavailable")
    assert answer.headers["Retry-After"] == "1"


async def test_without_temporal_the_request_says_so(settings: Settings, engine: AsyncEngine) -> None:
    async with running(settings) as app:
        user = await person(app, engine, settings, "carol")
        async with engine.begin() as tx:
            vm = await add_vm(tx, user.user)
        answer = await log_of(user, vm.id)
    assert (answer.status_code, answer.json()["code"]) == (503, "worker_unavailable")


async def test_an_answer_that_nobody_took_is_deleted(engine: AsyncEngine) -> None:
    old = datetime.now(UTC) - timedelta(minutes=6)
    async with engine.begin() as tx:
        for created_at in (old, datetime.now(UTC)):
            await queries.insert_row(tx, ConsoleAnswer, id=uuid4(), content=b"{}", created_at=created_at)
    await housekeeping.delete_expired(engine, 0)
    assert await count(engine, ConsoleAnswer) == 1
