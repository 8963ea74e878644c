"""Consoles of a cloud: logs, addresses, and what the cloud says if there are none."""

import json
from typing import Any
from uuid import uuid4

import pytest

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.protocol import BackendError
from activities.backends.resources import Console, Ref
from tests.backends.openstack.cloud_server import HTML, CloudServer, Reply
from tests.backends.openstack.recordings import Exchange, Recording
from tests.backends.openstack.resource_cloud import ResourceCloud
from tests.backends.openstack.server_cloud import ServerCloud

ADDRESS = {"protocol": "vnc", "type": "novnc", "url": "https://console.example/vnc_lite.html?path=%3Ftoken%3D51c9"}


@pytest.fixture
def vm(resources: ResourceCloud, server: CloudServer) -> Ref:
    """A VM with a server."""
    del resources  # this replaces them
    return ServerCloud(server).add_marked()


def answer(server: CloudServer, vm: Ref, path: str, *answers: Reply | Exchange) -> None:
    """Let the cloud answer requests for the VM's console, as it was recorded to do or otherwise."""
    replies = (reply if isinstance(reply, Reply) else _recorded(reply, vm) for reply in answers)
    server.add(Service.COMPUTE, "POST", f"/servers/{vm.cloud_id}/{path}", *replies)


def _recorded(exchange: Exchange, vm: Ref) -> Reply:
    body = json.dumps(exchange.body).replace(exchange.path.split("/")[2], vm.cloud_id or "")
    return Reply(exchange.status, json.loads(body))


async def refusal(call: Any) -> BackendError:
    """The error that ends the call."""
    with pytest.raises(BackendError) as refusal:
        await call
    return refusal.value


async def test_the_log_is_asked_for_by_its_last_lines(backend: OpenStackBackend, server: CloudServer, vm: Ref) -> None:
    recorded = Recording("console/log").at("two lines")
    answer(server, vm, "action", recorded)
    assert await backend.get_server_console_output(vm, 2) == "ANOTHER\nLAST LINE"
    (request,) = server.seen("POST", "/action")
    assert request.body == {"os-getConsoleOutput": {"length": 2}}


async def test_a_server_whose_id_was_not_kept_is_found_by_its_mark(
    backend: OpenStackBackend, server: CloudServer, vm: Ref
) -> None:
    answer(server, vm, "action", Recording("console/log").at("all lines"))
    assert (await backend.get_server_console_output(Ref(vm.id), 100)).startswith("FAKE CONSOLE OUTPUT\n")


@pytest.mark.parametrize("moment", ["building", "gone"])
async def test_a_server_that_has_no_log_now_has_no_console(
    backend: OpenStackBackend, server: CloudServer, vm: Ref, moment: str
) -> None:
    answer(server, vm, "action", Recording("console/log").at(moment))
    error = await refusal(backend.get_server_console_output(vm, 2))
    assert (error.code, error.retryable) == ("no_console", False)


@pytest.mark.parametrize("moment", ["deleting", "gone"])
async def test_a_server_that_is_being_deleted_has_no_address(
    backend: OpenStackBackend, server: CloudServer, vm: Ref, moment: str
) -> None:
    answer(server, vm, "remote-consoles", Recording("console/address").at(moment))
    error = await refusal(backend.create_console(vm))
    assert (error.code, error.retryable) == ("no_console", False)


async def test_a_vm_without_a_server_has_no_console(backend: OpenStackBackend, vm: Ref) -> None:
    del vm
    for call in (backend.get_server_console_output(Ref(uuid4()), 2), backend.create_console(Ref(uuid4()))):
        assert (await refusal(call)).code == "no_console"


async def test_a_cloud_that_has_no_consoles_to_use_is_asked_for_each_kind(
    backend: OpenStackBackend, server: CloudServer, vm: Ref
) -> None:
    recorded = Recording("console/address")
    answer(server, vm, "remote-consoles", *recorded.exchanges[:4])
    assert (await refusal(backend.create_console(vm))).code == "not_supported_by_cloud"
    kinds = [request.body["remote_console"]["type"] for request in server.seen("POST", "/remote-consoles")]
    assert kinds == ["novnc", "spice-html5", "webmks", "serial"] == [x.moment for x in recorded.exchanges[:4]]


async def test_the_address_of_the_first_kind_that_the_cloud_has_is_returned(
    backend: OpenStackBackend, server: CloudServer, vm: Ref
) -> None:
    spice = ADDRESS | {"protocol": "spice", "type": "spice-html5"}
    recorded = Recording("console/address").at("novnc")
    answer(server, vm, "remote-consoles", recorded, Reply(200, {"remote_console": spice}))
    console = await backend.create_console(vm)
    assert console == Console("spice-html5", ADDRESS["url"])
    assert "token" not in repr(console)


async def test_a_policy_that_forbids_consoles_is_not_supported(
    backend: OpenStackBackend, server: CloudServer, vm: Ref
) -> None:
    forbidden = Reply(403, {"forbidden": {"code": 403, "message": "Policy doesn't allow it to be performed."}})
    answer(server, vm, "action", forbidden)
    answer(server, vm, "remote-consoles", forbidden)
    for call in (backend.get_server_console_output(vm, 2), backend.create_console(vm)):
        error = await refusal(call)
        assert (error.code, "Policy" in str(error)) == ("not_supported_by_cloud", True)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (Reply(503, {}), "cloud_unavailable"),
        (Reply(504, "<html>", HTML, has_request_id=False), "cloud_timeout"),
        (Reply(404, "<html>", HTML, has_request_id=False), "cloud_unavailable"),
        (Reply(500, {"computeFault": {"code": 500, "message": "MessagingTimeout"}}), "busy"),
        (Reply(is_cut=True), "cloud_timeout"),
        (Reply(200, {}), "cloud_error"),
        (Reply(200, {"output": None}), "cloud_error"),
        (Reply(200, []), "cloud_error"),
    ],
)
async def test_an_answer_that_is_none_may_be_asked_for_again(
    backend: OpenStackBackend, server: CloudServer, vm: Ref, broken: Reply, code: str
) -> None:
    answer(server, vm, "action", broken)
    error = await refusal(backend.get_server_console_output(vm, 2))
    assert (error.code, error.retryable) == (code, True)
