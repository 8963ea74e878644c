"""Changes whose command, or whose service, ends too early or says too little."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import repeat
from threading import Event
from unittest.mock import Mock, patch
from uuid import UUID, uuid4

import httpx
import pytest

from tests.meta.files import ROOT
from tests.vmctl.conftest import Command
from tests.vmctl.doubles import NOW, Service, answer, listening, operation, problem, tokens, user
from vmctl.cli import changes, exits, session
from vmctl.cli.config import FileTokens
from vmctl.client import ClientError, OperationError, UnreachableError
from vmctl.client.errors import error_of
from vmctl.client.models import Operation, OperationStatus
from vmctl.client.sync.waiting import Accepted

ID = "3f0c5a4e-8d2b-4c6f-9a71-5e0d1c2b3a49"
ACCEPTED = {"Operation-Location": f"/api/v1/operations/{ID}"}


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up at the first failure."""
    monkeypatch.setattr(session, "_PATIENCE", 0.0)


def test_all_selectors_must_be_met(alone: Command) -> None:
    service = Service(lambda _: answer({"items": [], "next_cursor": None}))
    with listening(service) as alone.environment["VMCTL_URL"]:
        for command in (("vm", "delete", "--yes"), ("vm", "list"), ("volume", "list"), ("snapshot", "list")):
            alone.run(*command, "-l", "env=dev", "--selector", "tier=web")
        alone.run("vm", "delete", "-l", "env=dev", "-l", "tier!=", "--yes", code=64)
    asked = [request.url.params.get_list("labels") for request in service.requests]
    assert asked == [["env=dev", "tier=web"]] * 4


@pytest.mark.parametrize("command", ["password", "register"])
@pytest.mark.parametrize("login", [problem("overloaded", 503), problem("rate_limited", 429), answer({}, 502)])
def test_what_was_done_is_not_called_refused_because_the_login_after_it_fails(
    alone: Command, command: str, login: httpx.Response
) -> None:
    """A script would throw the new password away."""

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/auth/login"):
            return login
        is_change = request.url.path.endswith("/auth/password")
        return httpx.Response(204) if is_change else answer(user(), 201 if request.method == "POST" else 200)

    arguments = () if command == "password" else ("-u", "ada", "--email", "ada@example.com")
    with listening(Service(serve)) as alone.environment["VMCTL_URL"]:
        done = alone.run(command, *arguments, "--password-stdin", input="old password\nnew password\n")
    assert "you are not logged in. Try `vmctl login -u ada`" in done.stderr
    assert done.stderr.startswith("The password is changed" if command == "password" else "The account is made")


def test_a_logout_of_another_token_keeps_the_login(alone: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could end it any more, and it would go on."""
    monkeypatch.setenv("XDG_CONFIG_HOME", alone.environment["XDG_CONFIG_HOME"])
    alone.environment["VMCTL_TOKEN"] = "deleted"
    with listening(Service(repeat(problem("invalid_token", 401)))) as url:
        FileTokens(url).write(tokens("1"))
        alone.run("--url", url, "logout", code=3)
        assert FileTokens(url).read() == tokens("1")
    with listening(Service(lambda _: httpx.Response(204))) as url:
        FileTokens(url).write(tokens("1"))
        alone.run("--url", url, "logout")
        assert FileTokens(url).read() == tokens("1")


def test_an_address_of_two_interfaces_takes_none_away(alone: Command) -> None:
    """Networks may have the same addresses."""
    common = {"ip_address": "10.0.0.5", "mac_address": "fa:16:3e:00:00:01", "status": "ACTIVE", "created_at": NOW}
    interfaces = [
        {"id": str(uuid4()), "network_id": str(uuid4()), "vm_id": ID, "operation_id": ID, **common} for _ in range(2)
    ]
    service = Service(lambda _: answer({"items": interfaces, "next_cursor": None}))
    with listening(service) as alone.environment["VMCTL_URL"]:
        refused = alone.run("interface", "detach", ID, "10.0.0.5", code=64)
    assert {request.method for request in service.requests} == {"GET"}
    assert "several interfaces" in refused.stderr


def test_a_change_that_is_made_is_shown_even_if_it_cannot_be_read_again(alone: Command) -> None:
    volume = {"id": ID, "project_id": ID, "name": "data", "size_gb": 1, "status": "CREATING", "labels": {}}
    volume |= {"image_id": None, "operation_id": ID, "created_at": NOW, "updated_at": NOW, "bootable": False}

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return answer(volume, 202, Operation_Location=f"/api/v1/operations/{ID}")
        return answer(operation(id=ID)) if "operations" in request.url.path else problem("overloaded", 503)

    with listening(Service(serve)) as alone.environment["VMCTL_URL"]:
        done = alone.run("volume", "create", "data", "--size", "1", "--wait", "-o", "json", code=1)
    assert json.loads(done.stdout)["id"] == ID
    assert "data could not be read again" in done.stderr


def test_the_others_are_not_read_once_the_service_does_not_answer() -> None:
    """With a hundred VMs that would take half an hour."""
    ids = [uuid4() for _ in range(3)]
    read = Mock(side_effect=UnreachableError("away"))
    accepted = [Accepted(Mock(), Operation.model_validate(operation()), id, read) for id in ids]
    failures: list[ClientError] = [OperationError(Operation.model_validate(operation()))]
    with patch.object(changes, "current"):
        assert [changes._read_again(each, failures) for each in accepted] == [each.resource for each in accepted]
    assert read.call_count == 1


@pytest.mark.parametrize(
    ("codes", "expected"), [((404, 404), 4), ((404, 409), 1), ((404, "FAILED"), 2), ((409, "FAILED"), 2)]
)
def test_that_nothing_is_missing_but_something_else_is_wrong_has_another_code(
    codes: tuple[int | str, ...], expected: int
) -> None:
    """A script that cleans up may take code 4 for "already gone"."""
    failed = Operation.model_validate(operation(OperationStatus.FAILED))
    errors = [OperationError(failed) if code == "FAILED" else error_of(problem("refused", int(code))) for code in codes]
    assert exits.code_of_all(errors) == expected


def test_a_service_that_does_not_answer_is_not_asked_for_the_others(alone: Command) -> None:
    ids = [str(uuid4()) for _ in range(3)]
    refused = alone.run("vm", "delete", *ids, "--yes", code=1)
    assert f"Not asked for: {ids[1]}, {ids[2]}" in refused.stderr


@pytest.mark.parametrize("status", [200, 203, 206])
def test_an_empty_answer_of_somebody_else_is_no_success(status: int) -> None:
    service = Service([httpx.Response(status, headers={"Content-Type": "text/html"})])
    with pytest.raises(ClientError, match="not as this service does"):
        service.client().vms.delete("1")


@pytest.mark.parametrize("count", [1, 2])
def test_an_answer_about_another_operation_ends_the_wait(count: int) -> None:
    ids = [uuid4() for _ in range(count)]

    def serve(_: httpx.Request) -> httpx.Response:
        others = [operation(OperationStatus.RUNNING) for _ in ids]
        return answer(others[0] if count == 1 else {"items": others, "next_cursor": None})

    service = Service(serve)
    with pytest.raises(ClientError, match=r"another operation|no operation"):
        service.client().operations.wait(ids)
    assert len(service.requests) == 1


def test_an_operation_that_nobody_has_asked_for_is_not_shown() -> None:
    ids = [uuid4(), uuid4()]
    seen: list[UUID] = []
    listed = [operation(), *(operation(id=str(id)) for id in ids)]
    service = Service([answer({"items": listed, "next_cursor": None})])
    service.client().operations.wait(ids, watch=lambda operation: seen.append(operation.id))
    assert seen == ids


def test_an_operation_has_ended_when_it_says_so_whatever_its_status() -> None:
    """A later version of the service may have more of them."""
    body = operation(id=ID)
    open_ = body | {"status": "PAUSED", "finished_at": None}
    service = Service([answer(open_), answer(body)])
    [ended] = service.client().operations.wait([UUID(ID)])
    assert ended.status is OperationStatus.SUCCEEDED


@pytest.fixture
def hanging() -> Iterator[tuple[Service, Event]]:
    """A service that accepts the delete of one VM, and does not answer the next one; and when it has got that."""
    reached, over = Event(), Event()

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method != "DELETE":
            return problem("not_found", 404)
        if ID not in request.url.path:
            reached.set()
            over.wait(60)
        return httpx.Response(202, headers=ACCEPTED)

    yield Service(serve), reached
    over.set()


def test_a_command_that_is_stopped_between_two_changes_says_what_goes_on(
    alone: Command, hanging: tuple[Service, Event]
) -> None:
    service, reached = hanging
    with listening(service) as alone.environment["VMCTL_URL"]:
        command = [sys.executable, "-m", "vmctl", "vm", "delete", ID, str(uuid4()), "--yes", "--wait"]
        with subprocess.Popen(command, env=alone.environment | os.environ, cwd=ROOT, stderr=subprocess.PIPE) as asking:
            assert reached.wait(60)
            asking.send_signal(signal.SIGTERM)
            _, said = asking.communicate(timeout=60)
    assert asking.returncode == 128 + signal.SIGTERM
    assert f"vmctl op wait {ID}" in said.decode()
