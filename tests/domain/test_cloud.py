"""The status of a VM and the status of its server, converted into each other."""

import pytest

from domain.rules import lifecycle
from domain.rules.cloud import ServerStatus, server_status_of, vm_status_of
from domain.rules.states import Status


def test_every_idle_vm_has_a_server_status() -> None:
    idle = {status for status, task_state in lifecycle.legal_states() if task_state is None}
    servers = {status: server_status_of(status) for status in idle}
    assert servers == {
        Status.ACTIVE: ServerStatus.ACTIVE,
        Status.SHUTOFF: ServerStatus.SHUTOFF,
        Status.VERIFY_RESIZE: ServerStatus.VERIFY_RESIZE,
        Status.ERROR: ServerStatus.ERROR,
        Status.DELETED: ServerStatus.GONE,
    }


@pytest.mark.parametrize("server", ServerStatus)
def test_a_vm_is_in_error_unless_its_server_is_on_or_off(server: ServerStatus) -> None:
    healthy = {ServerStatus.ACTIVE: Status.ACTIVE, ServerStatus.SHUTOFF: Status.SHUTOFF}
    assert vm_status_of(server) is healthy.get(server, Status.ERROR)
