"""A call of every verb on servers and ports, and a VM on which the verb is allowed."""

from uuid import UUID, uuid4

import pytest

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import Token
from activities.backends.resources import Ref
from tests.activities.cloud import complete_changes, new_ports, server_spec
from tests.activities.mock_cloud import Call

VERBS: dict[str, Call] = {
    "create_ports": lambda cloud, token, vm_id: cloud.create_ports(token, Ref(vm_id), new_ports()),
    "create_server": lambda cloud, token, vm_id: cloud.create_server(token, server_spec(vm_id)),
    "start_server": lambda cloud, token, vm_id: cloud.start_server(token, Ref(vm_id)),
    "stop_server": lambda cloud, token, vm_id: cloud.stop_server(token, Ref(vm_id)),
    "reboot_server": lambda cloud, token, vm_id: cloud.reboot_server(token, Ref(vm_id), hard=False),
    "resize_server": lambda cloud, token, vm_id: cloud.resize_server(token, server_spec(vm_id, "m1.medium")),
    "confirm_server_resize": lambda cloud, token, vm_id: cloud.confirm_server_resize(token, Ref(vm_id)),
    "revert_server_resize": lambda cloud, token, vm_id: cloud.revert_server_resize(token, Ref(vm_id)),
    "delete_server": lambda cloud, token, vm_id: cloud.delete_server(token, Ref(vm_id)),
}
ON_ANY_SERVER = {"start_server", "stop_server", "reboot_server", "delete_server"}
DECISIONS = ("confirm_server_resize", "revert_server_resize")
RESIZES = ("resize_server", *DECISIONS)
each_verb = pytest.mark.parametrize("verb", VERBS)


async def vm_for(backend: MockBackend, verb: str) -> UUID:
    """Return a VM, with a server in the status that the verb needs."""
    vm_id = uuid4()
    if verb in ON_ANY_SERVER or verb in RESIZES:
        await backend.create_server(Token(uuid4(), "spawning"), server_spec(vm_id))
        await complete_changes(backend._engine, backend, vm_id)
    if verb in DECISIONS:
        await VERBS["resize_server"](backend, Token(uuid4(), "resize_migrating"), vm_id)
        await complete_changes(backend._engine, backend, vm_id)
    return vm_id
