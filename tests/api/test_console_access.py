"""Requests that wait for a console: who loses the right meanwhile gets nothing, and others have slots."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import consoles
from api.web.dependencies import CONSOLE_QUEUE, CONSOLE_SLOTS
from domain.data.guests import ConsoleAnswer
from domain.data.queries import insert_row
from domain.rules.console import ConsoleRequest
from tests.api.conftest import Person
from tests.api.projects import project_of, set_member
from tests.api.test_problems import check_problem
from tests.api.vm_resources import vm_of

ANSWERS: dict[str, dict[str, Any]] = {
    "log": {"output": "secret", "is_truncated": False},
    "address": {"type": "novnc", "url": "https://console.example"},
}


async def remove(ada: Person, project: Any, bob: Person) -> None:
    assert (await ada.http.delete(f"/projects/{project}/members/{bob.user.username}")).status_code == 204


async def demote(ada: Person, project: Any, bob: Person) -> None:
    await set_member(ada, project, bob, "reader")


async def log_out(_ada: Person, _project: Any, bob: Person) -> None:
    assert (await bob.http.post("/auth/logout-all")).status_code == 204


async def nothing(*_: object) -> None:
    """Bob keeps his right."""


@pytest.mark.parametrize(
    ("method", "path", "meanwhile", "status"),
    [
        ("GET", "console-log", nothing, 200),
        ("POST", "console", nothing, 200),
        ("GET", "console-log", remove, 404),
        ("POST", "console", remove, 404),
        ("GET", "console-log", demote, 200),
        ("POST", "console", demote, 403),
        ("GET", "console-log", log_out, 401),
    ],
)
async def test_the_right_is_checked_again_when_the_worker_has_answered(  # noqa: PLR0913, PLR0917 - parameters of tests
    ada: Person,
    bob: Person,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    meanwhile: Callable[..., Awaitable[None]],
    status: int,
) -> None:
    project = await project_of(ada, operator=bob)
    vm = await vm_of(ada, engine, owner_id=project, launched_at=datetime.now(UTC))

    async def answer(_process: object, _caller: object, _vm: object, request: ConsoleRequest) -> None:
        async with engine.begin() as tx:
            content = json.dumps(ANSWERS[request.kind]).encode()
            await insert_row(tx, ConsoleAnswer, id=request.id, content=content, created_at=datetime.now(UTC))
        await meanwhile(ada, project, bob)

    monkeypatch.setattr(consoles, "_answered", answer)
    found = await bob.http.request(method, f"/vms/{vm.id}/{path}")
    assert found.status_code == status, found.text


async def test_an_answer_that_is_lost_after_the_worker_has_written_it_may_be_asked_for_again(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover to a standby that had not got it yet loses it."""
    vm = await vm_of(ada, engine, launched_at=datetime.now(UTC))
    monkeypatch.setattr(consoles, "_answered", nothing)
    check_problem(await ada.http.get(f"/vms/{vm.id}/console-log"), 503, "worker_unavailable")


async def test_requests_that_wait_for_consoles_leave_slots_to_others(
    ada: Person, bob: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = asyncio.Event()
    monkeypatch.setattr(consoles, "_answered", lambda *_: go_on.wait())
    monkeypatch.setattr("api.web.slots.SLOT_TIMEOUT", 60.0)
    vm = await vm_of(ada, engine, launched_at=datetime.now(UTC))
    most = CONSOLE_SLOTS // 2 + CONSOLE_QUEUE // 2
    asking = [asyncio.create_task(ada.http.get(f"/vms/{vm.id}/console-log")) for _ in range(most + 3)]
    for refused in itertools.islice(asyncio.as_completed(asking), 3):
        assert (await refused).json()["code"] == "too_many_requests"
    assert (await bob.http.get("/vms")).status_code == 200
    go_on.set()
    codes = [answer.json()["code"] for answer in await asyncio.gather(*asking)]
    assert codes.count("worker_unavailable") == most  # nobody has written an answer
