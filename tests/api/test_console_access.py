"""Who loses the right to a console while a worker is asked for it gets nothing."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import consoles
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
