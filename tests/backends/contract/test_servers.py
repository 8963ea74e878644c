"""Servers: built, switched, deleted, and refused."""

from uuid import uuid4

from activities.backends.protocol import Token
from activities.backends.resources import Ref
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind
from tests.backends.contract.lab import Lab, new_token, refusal, refusals


async def test_a_server_is_built_once_for_a_token_and_deleted_with_its_port(lab: Lab) -> None:
    vm, token = await lab.begin_server(lab.small)
    again = await lab.backend.create_server(token, lab.spec(lab.small, Ref(vm.id)), [lab.port()])
    assert again == vm.cloud_id
    built = await lab.settle(vm, token)
    assert (built.status, built.fault, built.image_id) == (ServerStatus.ACTIVE, None, lab.small.image.cloud_id)
    assert built.has_size_of(lab.small)
    assert await lab.server(Ref(vm.id)) == built  # by its mark
    assert vm.id in await lab.inventory(Kind.VM)
    (port,) = await lab.backend.list_ports([vm])
    assert (port.vm_id, port.network_id) == (vm.id, lab.network_id)
    assert port.ip_address
    assert port.mac_address
    await lab.delete(vm)
    assert await lab.backend.list_ports([vm]) == []
    assert vm.id not in await lab.inventory(Kind.VM)
    await lab.backend.delete_server(new_token(), vm)


async def test_power_changes_end_in_their_statuses_and_repeating_one_is_no_error(lab: Lab) -> None:
    vm = await lab.new_server()
    assert await lab.power(vm, lab.backend.stop_server) is ServerStatus.SHUTOFF
    assert await lab.power(vm, lab.backend.stop_server) is ServerStatus.SHUTOFF
    assert await refusal(lab.soft_reboot(new_token(), vm)) == ("conflict", False)
    assert await lab.power(vm, lab.hard_reboot) is ServerStatus.ACTIVE
    assert await lab.power(vm, lab.backend.start_server) is ServerStatus.ACTIVE
    assert await lab.power(vm, lab.soft_reboot) is ServerStatus.ACTIVE
    assert await lab.power(vm, lab.backend.stop_server) is ServerStatus.SHUTOFF
    assert await lab.power(vm, lab.backend.start_server) is ServerStatus.ACTIVE


async def test_a_server_without_a_host_is_in_error_and_can_only_be_deleted(lab: Lab) -> None:
    vm = await lab.failed_server(lab.giant)
    failed = await lab.server(vm)
    assert failed is not None
    assert failed.fault is not None
    assert failed.fault.code == "no_valid_host"
    volume = await lab.new_volume()
    refused = await refusals(
        lab.backend.resize_server(new_token(), lab.spec(lab.small, vm)),
        lab.backend.create_server_image(new_token(), vm, uuid4(), "none"),
        lab.backend.attach_volume(new_token(), vm, volume, None),
        lab.backend.create_server_interface(new_token(), vm, lab.port()),
        lab.backend.start_server(new_token(), vm),
        lab.backend.stop_server(new_token(), vm),
        lab.hard_reboot(new_token(), vm),
    )
    assert refused == [("conflict", False)] * 7
    await lab.delete(vm)


async def test_a_server_that_is_being_built_can_only_be_deleted(lab: Lab) -> None:
    vm, _ = await lab.begin_server(lab.small)
    refused = await refusals(
        lab.backend.stop_server(new_token(), vm),
        lab.hard_reboot(new_token(), vm),
        lab.backend.resize_server(new_token(), lab.spec(lab.large, vm)),
        lab.backend.create_server_image(new_token(), vm, uuid4(), "none"),
    )
    # As long as no host was found, Nova shows a server but does not find it for a call.
    assert set(refused) <= {("conflict", False), ("not_found", False)}
    await lab.delete(vm)
    assert await lab.backend.list_ports([vm]) == []


async def test_calls_on_a_server_that_does_not_exist(lab: Lab) -> None:
    volume = await lab.new_volume()
    for vm in (Ref(uuid4()), Ref(uuid4(), str(uuid4()))):
        port = lab.port()
        refused = await refusals(
            lab.backend.start_server(new_token(), vm),
            lab.backend.stop_server(new_token(), vm),
            lab.hard_reboot(new_token(), vm),
            lab.backend.resize_server(new_token(), lab.spec(lab.large, vm)),
            lab.backend.create_server_image(new_token(), vm, uuid4(), "none"),
            lab.backend.attach_volume(new_token(), vm, volume, None),
            lab.backend.create_server_interface(new_token(), vm, port),
        )
        assert set(refused) == {("server_not_found", False)}
        await lab.backend.delete_server_interface(new_token(), vm, port.interface)
        await lab.backend.detach_volume(new_token(), vm, volume)
        await lab.backend.delete_server(new_token(), vm)
        await lab.backend.purge(vm)
        assert await lab.server(vm) is None


async def test_a_revoked_operation_changes_nothing_any_more_but_can_be_undone(lab: Lab) -> None:
    vm, token = await lab.begin_server(lab.small)
    await lab.settle(vm, token)
    await lab.backend.revoke(token.operation_id)
    late = Token(token.operation_id, "late")
    assert await refusal(lab.backend.stop_server(late, vm)) == ("token_revoked", False)
    assert await refusal(lab.begin_server(lab.small, late)) == ("token_revoked", False)
    server = await lab.server(vm)
    assert server is not None
    assert (server.status, server.is_busy) == (ServerStatus.ACTIVE, False)
    await lab.backend.delete_server(Token(token.operation_id, "undo", compensates=True), vm)

    async def is_gone() -> bool:
        return await lab.server(vm) is None

    await lab.until(is_gone)
