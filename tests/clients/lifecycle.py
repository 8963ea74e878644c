"""The whole life of a VM with the generated Python client, by a new user: `python lifecycle.py URL`."""

import sys
import time
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID, uuid4

from vm_api_client import AuthenticatedClient, Client
from vm_api_client.api.auth import log_in, register_user
from vm_api_client.api.catalogue import list_flavors, list_networks
from vm_api_client.api.interfaces import attach_interface, detach_interface, list_interfaces
from vm_api_client.api.operations import get_operation, list_vm_operations
from vm_api_client.api.snapshots import create_snapshot, delete_snapshot, list_snapshots, restore_vm
from vm_api_client.api.vms import (
    change_vm,
    confirm_vm_resize,
    create_vm,
    create_vms,
    delete_vm,
    get_vm,
    list_vms,
    reboot_vm,
    resize_vm,
    revert_vm_resize,
    start_vm,
    stop_vm,
)
from vm_api_client.api.volumes import attach_volume, create_volume, delete_volume, detach_volume
from vm_api_client.models import (
    VM,
    ActionName,
    Credentials,
    NewAttachment,
    NewInterface,
    NewSnapshot,
    NewVM,
    NewVMLabels,
    NewVMs,
    NewVolume,
    OperationStatus,
    Problem,
    ProblemCode,
    Reboot,
    RebootType,
    Registration,
    Resize,
    Status,
    Validity,
    VMChanges,
    VMChangesLabels,
)
from vm_api_client.types import Response

T = TypeVar("T")
PASSWORD = "Correct-Horse-1"
LIMIT = 60.0  # seconds for one operation


def sure(answer: T | Validity | Problem | None) -> T:
    """Return the answer, or stop if it is a problem. Only a request with `validate_only` gets a Validity."""
    if answer is None or isinstance(answer, Problem | Validity):
        raise SystemExit(f"Unexpected answer: {answer}")
    return answer


class Lifecycle:
    """The requests of one new user."""

    def __init__(self, url: str) -> None:
        name = f"client-{uuid4().hex[:12]}"
        account = Registration(username=name, email=f"{name}@example.com", password=PASSWORD)
        with Client(base_url=url) as anyone:
            sure(register_user.sync(client=anyone, body=account))
            pair = sure(log_in.sync(client=anyone, body=Credentials(username=name, password=PASSWORD)))
        self.client = AuthenticatedClient(base_url=url, token=pair.access_token)

    def finish(self, operation_id: UUID) -> None:
        """Wait until the operation has succeeded."""
        give_up_at = time.monotonic() + LIMIT
        while time.monotonic() < give_up_at:
            operation = sure(get_operation.sync(operation_id, client=self.client))
            if operation.status is OperationStatus.SUCCEEDED:
                return
            if operation.status not in {OperationStatus.QUEUED, OperationStatus.RUNNING}:
                break
            time.sleep(0.1)
        raise SystemExit(f"{operation.action} is {operation.status}: {operation.error or operation.last_error}")

    def done(self, vm: VM | Validity | Problem | None) -> VM:
        """Wait for the operation that the answer names, and return the VM after it."""
        accepted = sure(vm)
        self.finish(accepted.operation_id)
        return sure(get_vm.sync(accepted.id, client=self.client))

    def run(self) -> None:
        """Create a VM with labels, do everything to it, and delete it."""
        small, large = (flavor.id for flavor in sure(list_flavors.sync(client=self.client)).items[:2])
        labels = NewVMLabels.from_dict({"env": "prod", "team": "a,b"})
        new = NewVM(name="generated", flavor_id=small, labels=labels)
        assert isinstance(create_vm.sync(client=self.client, body=new, validate_only=True), Validity)
        vm = self.done(create_vm.sync(client=self.client, body=new, idempotency_key="generated-1"))
        assert vm.status is Status.ACTIVE
        assert vm.labels.to_dict() == labels.to_dict()
        assert ActionName.CONFIRM_RESIZE not in vm.allowed_actions
        again = sure(create_vm.sync(client=self.client, body=new, idempotency_key="generated-1"))
        assert again.id == vm.id
        found = sure(list_vms.sync(client=self.client, labels=["env=prod"]))
        assert [one.id for one in found.items] == [vm.id]
        self.act(vm, large)
        self.attach(vm)
        self.delete(vm)
        self.many()

    def many(self) -> None:
        """Create two VMs at once, by name, and delete them."""
        wanted = [NewVM(name=f"one-of-{n}", flavor="m1.tiny", networks=["private"]) for n in range(2)]
        for vm in sure(create_vms.sync(client=self.client, body=NewVMs(vms=wanted))).items:
            self.finish(vm.operation_id)
            self.gone(delete_vm.sync_detailed(vm.id, client=self.client))

    def act(self, vm: VM, large: UUID) -> None:
        """Take every action, without a body where none is needed."""
        client = self.client
        assert self.done(stop_vm.sync(vm.id, client=client)).status is Status.SHUTOFF
        refused = stop_vm.sync(vm.id, client=client)
        assert isinstance(refused, Problem)
        assert refused.code is ProblemCode.INVALID_TRANSITION
        assert refused.allowed_actions
        assert ActionName.START in refused.allowed_actions
        self.done(start_vm.sync(vm.id, client=client))
        self.done(reboot_vm.sync(vm.id, client=client))
        self.done(reboot_vm.sync(vm.id, client=client, body=Reboot(type_=RebootType.HARD)))
        for decide in (revert_vm_resize, confirm_vm_resize):
            resized = self.done(resize_vm.sync(vm.id, client=client, body=Resize(flavor_id=large)))
            assert resized.status is Status.VERIFY_RESIZE
            vm = self.done(decide.sync(vm.id, client=client))
        assert vm.flavor_id == large
        snapshot = sure(create_snapshot.sync(vm.id, client=client, body=NewSnapshot(name="before")))
        self.finish(snapshot.operation_id)
        self.done(restore_vm.sync(vm.id, snapshot.id, client=client))
        changes = VMChanges(name="renamed", labels=VMChangesLabels.from_dict({"env": "test", "team": None}))
        changed = sure(change_vm.sync(vm.id, client=client, body=changes))
        assert (changed.name, changed.labels.to_dict()) == ("renamed", {"env": "test"})
        assert [one.id for one in sure(list_snapshots.sync(client=client)).items] == [snapshot.id]
        self.gone(delete_snapshot.sync_detailed(snapshot.id, client=client))

    def attach(self, vm: VM) -> None:
        """Attach a volume and an interface, and take them away."""
        client = self.client
        volume = sure(create_volume.sync(client=client, body=NewVolume(name="data", size_gb=1)))
        self.finish(volume.operation_id)
        attached = sure(attach_volume.sync(vm.id, client=client, body=NewAttachment(volume_id=volume.id)))
        self.finish(attached.operation_id)
        networks = sure(list_networks.sync(client=client)).items
        mine = {interface.network_id for interface in sure(list_interfaces.sync(vm.id, client=client)).items}
        network = next(network for network in networks if network.id not in mine)
        plugged = sure(attach_interface.sync(vm.id, client=client, body=NewInterface(network_id=network.id)))
        self.finish(plugged.operation_id)
        self.gone(detach_interface.sync_detailed(vm.id, plugged.id, client=client))
        self.gone(detach_volume.sync_detailed(vm.id, volume.id, client=client))
        self.gone(delete_volume.sync_detailed(volume.id, client=client))

    def gone(self, answer: Response[Any | Problem]) -> None:
        """Wait for the operation that the answer to a delete names."""
        assert answer.status_code == HTTPStatus.NO_CONTENT, answer.content
        self.finish(UUID(answer.headers["Operation-Location"].rpartition("/")[2]))

    def delete(self, vm: VM) -> None:
        """Delete the VM; its operations stay readable."""
        self.gone(delete_vm.sync_detailed(vm.id, client=self.client))
        assert sure(get_vm.sync(vm.id, client=self.client)).status is Status.DELETED
        changed = sure(list_vms.sync(client=self.client, changes_since=vm.updated_at)).items
        assert [(one.id, one.status) for one in changed] == [(vm.id, Status.DELETED)]
        operations = sure(list_vm_operations.sync(vm.id, client=self.client, page_size=50)).items
        assert {operation.action for operation in operations} >= {ActionName.CREATE, ActionName.REBOOT}


if __name__ == "__main__":
    Lifecycle(sys.argv[1]).run()
