"""Waiting for operations."""

from collections.abc import Iterator
from itertools import repeat
from math import inf
from unittest.mock import MagicMock
from uuid import UUID, uuid4

import httpx
import pytest

from tests.vmctl.conftest import Command
from tests.vmctl.doubles import Service, answer, listening, operation, problem, tokens
from vmctl.cli import session, vm_actions
from vmctl.client import NotFoundError, OperationError, ProblemError, WaitTimeoutError, retries, sending
from vmctl.client.models import Operation, OperationStatus
from vmctl.client.sync import transport, waiting
from vmctl.client.tokens import MemoryTokens

RUNNING = OperationStatus.RUNNING


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client ask again at once: these services hold no answer back."""
    monkeypatch.setattr(retries, "delays", lambda: repeat(0.0))


class Clock:
    """The clock of the client, which stands still until a test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for module in (waiting, transport, sending):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)


def test_one_request_waits_for_an_operation() -> None:
    body = operation()
    service = Service([answer(body)])
    [ended] = service.client().operations.wait([UUID(body["id"])])
    assert ended.status is OperationStatus.SUCCEEDED
    [request] = service.requests
    assert request.url.params["wait"] == "60"
    assert request.extensions["timeout"]["read"] > 60


def test_many_operations_are_waited_for_together() -> None:
    ids = [uuid4() for _ in range(150)]

    def handle(request: httpx.Request) -> httpx.Response:
        asked = request.url.params["id"].split(",")
        return answer({"items": [operation(id=id) for id in reversed(asked)], "next_cursor": None})

    service = Service(handle)
    assert [ended.id for ended in service.client().operations.wait(ids)] == ids
    assert [len(request.url.params["id"].split(",")) for request in service.requests] == [100, 50]


def test_an_operation_that_does_not_exist_is_not_waited_for_for_ever() -> None:
    known, unknown = operation(), uuid4()
    service = Service([answer({"items": [known], "next_cursor": None})])
    with pytest.raises(NotFoundError, match=str(unknown)):
        service.client().operations.wait([UUID(known["id"]), unknown])


def test_an_operation_that_goes_on_is_waited_for_again() -> None:
    id = str(uuid4())
    service = Service([answer(operation(RUNNING, id=id)), answer(operation(id=id))])
    service.client().operations.wait([UUID(id)])
    assert len(service.requests) == 2


def test_a_service_that_does_not_hold_its_answers_back_is_asked_at_longer_and_longer_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    id = str(uuid4())
    slept: list[float] = []
    monkeypatch.setattr(retries, "delays", lambda: iter(range(100)))
    monkeypatch.setattr(waiting, "sleep", slept.append)
    service = Service([*(answer(operation(RUNNING, id=id)) for _ in range(5)), answer(operation(id=id))])
    service.client().operations.wait([UUID(id)])
    assert slept == [0, 1, 2, 3, 4]


def test_a_wait_without_an_end_may_be_written_as_one() -> None:
    body = operation()
    assert Service([answer(body)]).client().operations.wait([UUID(body["id"])], timeout=inf)


def test_a_watcher_sees_every_look() -> None:
    id = str(uuid4())
    seen: list[Operation] = []
    bodies = [operation(RUNNING, id=id, progress=percent) for percent in (33, 66)]
    service = Service([*map(answer, bodies), answer(operation(id=id, progress=100))])
    service.client().operations.wait([UUID(id)], watch=seen.append)
    assert [operation.progress for operation in seen] == [33, 66, 100]


def test_a_wait_ends_in_time_and_names_what_goes_on() -> None:
    id = uuid4()
    service = Service(lambda _request: answer(operation(RUNNING, id=str(id))))
    with pytest.raises(WaitTimeoutError) as caught:
        service.client().operations.wait([id], timeout=0)
    assert caught.value.operation_ids == [id]
    assert [request.url.params["wait"] for request in service.requests] == ["0"]


@pytest.mark.parametrize("end", [httpx.ReadTimeout("silent"), httpx.ReadError("cut off"), problem("overloaded", 503)])
def test_a_wait_ends_in_time_if_the_service_is_away(
    monkeypatch: pytest.MonkeyPatch, end: httpx.Response | Exception
) -> None:
    id = uuid4()
    clock = Clock(monkeypatch)

    def handle(_request: httpx.Request) -> httpx.Response:
        clock.now += 2.5
        if isinstance(end, Exception):
            raise end
        return end

    service = Service(handle)
    with pytest.raises(WaitTimeoutError) as caught:
        service.client(patience=20).operations.wait([id], timeout=4)
    assert caught.value.operation_ids == [id]
    assert clock.now <= 4 + waiting._GRACE + 2.5


@pytest.mark.parametrize("timeout", [1, 6, 10, 14])
def test_a_wait_lasts_as_long_as_it_may_if_the_pauses_are_longer(
    monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    clock = Clock(monkeypatch)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(retries, "delays", lambda: repeat(8.0))
    monkeypatch.setattr(transport, "sleep", sleep)
    service = Service(repeat(httpx.ConnectError("refused")))
    with pytest.raises(WaitTimeoutError):
        service.client(patience=20).operations.wait([uuid4()], timeout=timeout)
    assert timeout <= clock.now <= timeout + waiting._GRACE
    assert len(service.requests) < 6


@pytest.mark.parametrize("timeout", [0, -6, -100, -inf])
def test_a_wait_that_is_over_looks_once_more(monkeypatch: pytest.MonkeyPatch, timeout: float) -> None:
    """The machine may have been asleep. To httpx, a limit below zero is an error."""
    Clock(monkeypatch)
    body = operation()
    service = Service([answer(body)])
    assert service.client().operations.wait([UUID(body["id"])], timeout=timeout)
    limits = service.requests[0].extensions["timeout"]
    assert (service.requests[0].url.params["wait"], limits["read"], limits["connect"]) == ("0", 5, 5)


def test_the_last_look_is_at_all_operations() -> None:
    ids = [uuid4() for _ in range(150)]

    def handle(request: httpx.Request) -> httpx.Response:
        asked = map(UUID, request.url.params["id"].split(","))
        items = [operation(RUNNING if id == ids[-1] else OperationStatus.FAILED, id=str(id)) for id in asked]
        return answer({"items": items, "next_cursor": None})

    client = Service(handle).client()
    with pytest.raises(WaitTimeoutError) as caught:
        client.operations.wait(ids, timeout=0)
    assert caught.value.operation_ids == ids[-1:]
    assert len(client.operations.wait(ids[:-1], timeout=0)) == 149


def test_a_last_look_that_breaks_off_keeps_what_it_has_read() -> None:
    ids = [uuid4() for _ in range(150)]
    items = [operation(id=str(id)) for id in ids[:100]]
    service = Service([answer({"items": items, "next_cursor": None}), *repeat(problem("overloaded", 503), 9)])
    with pytest.raises(WaitTimeoutError) as caught:
        service.client(patience=0).operations.wait(ids, timeout=0)
    assert caught.value.operation_ids == ids[100:]
    assert caught.value.__notes__ == ["It is not known how far they are: It is overloaded."]


def test_an_answer_that_trickles_ends_with_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, id = Clock(monkeypatch), uuid4()

    def trickle() -> Iterator[bytes]:
        while True:
            clock.now += 1
            yield b" "

    service = Service(lambda _: httpx.Response(200, content=trickle(), headers={"Content-Type": "application/json"}))
    with pytest.raises(WaitTimeoutError):
        service.client().operations.wait([id], timeout=3)
    assert clock.now <= 3 + waiting._GRACE + 2


def test_a_renewal_of_the_token_is_not_cut_off_by_the_end_of_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service would have used the old token, and the new one would be lost."""
    Clock(monkeypatch)
    body, store = operation(), MemoryTokens()
    store.write(tokens("1"))
    service = Service([problem("invalid_token", 401), answer(tokens("2").model_dump()), answer(body)])
    assert service.client(tokens=store).operations.wait([UUID(body["id"])], timeout=0)
    assert [request.extensions["timeout"]["read"] for request in service.requests[:2]] == [5, 9]


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), problem("overloaded", 503, Retry_After="60")])
def test_a_wait_whose_service_is_away_lasts_until_its_end(
    monkeypatch: pytest.MonkeyPatch, failure: httpx.Response | Exception
) -> None:
    """The pause until the next attempt may be longer than what is left."""
    clock = Clock(monkeypatch)

    def tick() -> float:
        clock.now += 1e-6
        return clock.now

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(retries, "delays", lambda: repeat(8.0))
    for module in (waiting, transport, sending):
        monkeypatch.setattr(module, "monotonic", tick)
    monkeypatch.setattr(transport, "sleep", sleep)
    service = Service(repeat(failure))
    with pytest.raises(WaitTimeoutError):
        service.client(patience=120).operations.wait([uuid4()], timeout=5)
    assert clock.now >= 5


def test_the_time_that_an_answer_is_held_back_does_not_count_as_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, body = Clock(monkeypatch), operation()

    def handle(request: httpx.Request) -> httpx.Response:
        clock.now += 45
        if len(service.requests) == 1:
            raise httpx.ReadError("cut off", request=request)
        return answer(body)

    service = Service(handle)
    assert service.client(patience=30).operations.wait([UUID(body["id"])])
    assert len(service.requests) == 2


@pytest.mark.parametrize(("timeout", "longest"), [(1.0, 6), (20.0, 25), (3600.0, 90), (None, 90)])
def test_no_request_takes_longer_than_the_wait(timeout: float | None, longest: float) -> None:
    body = operation()
    service = Service([answer(body)])
    service.client().operations.wait([UUID(body["id"])], timeout=timeout)
    assert longest - 1 < service.requests[0].extensions["timeout"]["read"] <= longest


def test_a_wait_that_is_refused_is_not_over() -> None:
    with pytest.raises(ProblemError):
        Service([problem("forbidden", 403)]).client().operations.wait([uuid4()], timeout=0)


def test_a_change_that_fails_raises_its_reason() -> None:
    failed = operation(OperationStatus.FAILED, error={"code": "no_host", "message": "No host has room."})
    location = {"Operation-Location": f"/api/v1/operations/{failed['id']}"}
    service = Service([httpx.Response(204, headers=location), answer(failed)])
    accepted = service.client().vms.delete("1")
    with pytest.raises(OperationError, match=r"FAILED\. No host has room\."):
        accepted.wait()


def test_a_delete_with_nothing_to_do_has_nothing_to_wait_for() -> None:
    service = Service([httpx.Response(204)])
    service.client().vms.delete("1").wait()
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("refusal", "code"),
    [(answer({}, 502), 1), (problem("database_unavailable", 503), 1), (problem("invalid_token", 401), 3)],
)
def test_a_command_whose_wait_the_service_ends_says_how_to_go_on(
    alone: Command, monkeypatch: pytest.MonkeyPatch, refusal: httpx.Response, code: int
) -> None:
    id = str(uuid4())
    monkeypatch.setattr(session, "_PATIENCE", 0.0)
    with listening(Service(repeat(refusal))) as alone.environment["VMCTL_URL"]:
        ended = alone.run("op", "wait", id, code=code)
    assert f"What was asked for goes on. Wait again with: vmctl op wait {id}\n" in ended.stderr


def test_the_confirmation_of_a_resize_has_the_time_that_is_left(
    alone: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments, given = iter([100.0, 103.0]), []
    monkeypatch.setattr(vm_actions, "monotonic", lambda: next(moments))
    monkeypatch.setattr(vm_actions, "current", MagicMock())
    monkeypatch.setattr(vm_actions, "wait_for", lambda *arguments: given.append(arguments[-1]))
    monkeypatch.setattr(vm_actions, "conclude", lambda *_, timeout, **__: given.append(timeout))
    with listening(Service([])) as alone.environment["VMCTL_URL"]:
        alone.run("vm", "resize", str(uuid4()), "-f", "m1.small", "--confirm", "--timeout", "5")
    assert given == [5, 2]
