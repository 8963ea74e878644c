"""Resizes: confirmed, reverted, without a host, and what a server that waits for the decision refuses."""

from uuid import uuid4

from domain.rules.cloud import ServerStatus
from tests.backends.contract.lab import Lab, new_token, refusal, refusals


async def test_a_resize_waits_for_its_decision_and_refuses_all_else(lab: Lab) -> None:
    vm = await lab.new_server()
    resized = await lab.resize(vm, lab.large)
    assert resized.status is ServerStatus.VERIFY_RESIZE
    assert resized.has_size_of(lab.large)
    refused = await refusals(
        lab.backend.stop_server(new_token(), vm),
        lab.backend.start_server(new_token(), vm),
        lab.hard_reboot(new_token(), vm),
        lab.backend.resize_server(new_token(), lab.spec(lab.small, vm)),
        lab.backend.create_server_image(new_token(), vm, uuid4(), "none"),
        lab.backend.rebuild_server(new_token(), lab.spec(lab.large, vm)),
        lab.backend.create_server_interface(new_token(), vm, lab.port()),
    )
    assert refused == [("conflict", False)] * 7
    assert await lab.power(vm, lab.backend.confirm_server_resize) is ServerStatus.ACTIVE
    confirmed = await lab.server(vm)
    assert confirmed is not None
    assert confirmed.has_size_of(lab.large)
    # It is no error that the resize has been decided. Who asks looks at the size to learn how.
    assert await lab.power(vm, lab.backend.revert_server_resize) is ServerStatus.ACTIVE
    assert await lab.server(vm) == confirmed


async def test_a_server_that_is_off_is_off_after_a_revert(lab: Lab) -> None:
    vm = await lab.new_server()
    await lab.power(vm, lab.backend.stop_server)
    assert (await lab.resize(vm, lab.large)).status is ServerStatus.VERIFY_RESIZE
    assert await lab.power(vm, lab.backend.revert_server_resize) is ServerStatus.SHUTOFF
    reverted = await lab.server(vm)
    assert reverted is not None
    assert reverted.has_size_of(lab.small)


async def test_a_resize_to_the_same_flavor_is_refused(lab: Lab) -> None:
    vm = await lab.new_server()
    call = lab.backend.resize_server(new_token(), lab.spec(lab.small, vm))
    assert await refusal(call) == ("bad_request", False)


async def test_a_resize_without_a_host_leaves_the_server_as_it_was(lab: Lab) -> None:
    vm = await lab.new_server()
    # Not every cloud says why.
    assert await refusal(lab.resize(vm, lab.giant)) in [("no_valid_host", False), ("accepted", False)]
    server = await lab.server(vm)
    assert server is not None
    assert (server.status, server.fault, server.is_busy) == (ServerStatus.ACTIVE, None, False)
    assert server.has_size_of(lab.small)
