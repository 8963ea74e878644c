"""Waiting for operations."""

from itertools import repeat
from math import inf
from uuid import UUID, uuid4

import httpx
import pytest

from tests.vmctl.doubles import Service, answer, operation, problem
from vmctl.client import NotFoundError, OperationError, ProblemError, WaitTimeoutError, retries
from vmctl.client.models import Operation, OperationStatus
from vmctl.client.sync import waiting

RUNNING = OperationStatus.RUNNING


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client ask again at once: these services hold no answer back."""
    monkeypatch.setattr(retries, "delays", lambda: repeat(0.0))


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
def test_a_wait_ends_in_time_if_the_service_is_away(end: httpx.Response | Exception) -> None:
    id = uuid4()
    service = Service(repeat(end))
    with pytest.raises(WaitTimeoutError) as caught:
        service.client(patience=20).operations.wait([id], timeout=-waiting._GRACE)
    assert caught.value.operation_ids == [id]
    assert len(service.requests) == 1


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
