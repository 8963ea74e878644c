"""The mock cloud's consoles show what cloud-init got, and are there when Nova's would be."""

from dataclasses import replace
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.resources import Ref
from domain.rules import cloud_init
from tests.activities.cloud import complete_changes, server_spec
from tests.activities.mock_cloud import make_due, refused, token
from tests.support.ssh_keys import new_key


async def boot(cloud: MockBackend, engine: AsyncEngine, user_data: bytes | None) -> UUID:
    """Build a server with this user data and return its VM's id."""
    vm_id = uuid4()
    await cloud.create_server(token(), replace(server_spec(vm_id), user_data=user_data))
    await complete_changes(engine, cloud, vm_id)
    return vm_id


async def log_of(cloud: MockBackend, vm_id: UUID, lines: int = 100) -> list[str]:
    """Return the lines of the VM's log."""
    return (await cloud.get_server_console_output(Ref(vm_id), lines)).split("\n")


async def test_a_server_without_user_data_shows_a_boot(backend: MockBackend, engine: AsyncEngine) -> None:
    vm_id = await boot(backend, engine, None)
    assert await log_of(backend, vm_id) == ["Booting test-vm in the mock cloud", "test-vm login:"]
    assert await log_of(backend, vm_id, 1) == ["test-vm login:"]


async def test_user_data_and_keys_are_shown_part_by_part(backend: MockBackend, engine: AsyncEngine) -> None:
    key, script = new_key("ada"), "#!/bin/sh\necho jürgen\r\n"
    alone = await log_of(backend, await boot(backend, engine, script.encode()))
    assert alone[1:-1] == ["cloud-init: user data", *script.split("\n")]
    both = await log_of(backend, await boot(backend, engine, cloud_init.render(script, [key])))
    assert both[1:4] == ["cloud-init: text/plain", "#!/bin/sh", "echo jürgen\r"]
    assert both.index("cloud-init: text/cloud-config") < both.index(f'  - "{key}"')


async def test_a_message_that_cannot_be_read_does_not_hide_the_boot(backend: MockBackend, engine: AsyncEngine) -> None:
    levels = "".join(f"Content-Type:multipart/a;boundary={n}\n\n--{n}\n" for n in range(1000))
    vm_id = await boot(backend, engine, f"MIME-Version: 1.0\n{levels}".encode())
    assert (await log_of(backend, vm_id))[1:] == ["cloud-init: the message is nested too deeply", "test-vm login:"]


async def test_a_server_has_a_console_once_it_is_built_and_until_it_is_gone(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm = Ref(uuid4())
    await refused(slow_backend.get_server_console_output(vm, 1), "no_console")
    cloud_id = await slow_backend.create_server(token(), server_spec(vm.id))
    await refused(slow_backend.get_server_console_output(vm, 1), "no_console")
    await refused(slow_backend.create_console(vm), "no_console")
    await make_due(engine, vm.id)
    assert await log_of(slow_backend, vm.id)
    await refused(slow_backend.create_console(vm), "not_supported_by_cloud")
    await refused(slow_backend.get_server_console_output(Ref(vm.id, str(uuid4())), 1), "no_console")
    assert await slow_backend.get_server_console_output(Ref(vm.id, cloud_id), 1)
    await slow_backend.stop_server(token(), vm)
    assert await log_of(slow_backend, vm.id)
    await slow_backend.delete_server(token(), vm)
    await make_due(engine, vm.id)
    await refused(slow_backend.get_server_console_output(vm, 1), "no_console")
