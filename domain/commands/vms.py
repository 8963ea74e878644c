"""Commands on a VM that exists: power, resize, delete."""

from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands import boot_sources
from domain.commands.acceptance import Accepted, Requester, accept, check_allowed, lock_changeable_vm, requested
from domain.commands.quotas import reserve
from domain.data.models import VM, Flavor
from domain.data.parameters import NO_PARAMETERS, Control, Parameters, Reboot, Resize
from domain.data.queries import fetch_all
from domain.data.views import shown_vm
from domain.rules.errors import SameFlavorError
from domain.rules.references import Choice, pick_one
from domain.rules.states import Action, Status


async def start_vm(tx: AsyncConnection, requester: Requester, vm_id: UUID) -> Accepted[VM]:
    """Power the requester's VM on."""
    return await _submit(tx, requester, vm_id, Action.START, NO_PARAMETERS)


async def stop_vm(tx: AsyncConnection, requester: Requester, vm_id: UUID) -> Accepted[VM]:
    """Shut the requester's VM down."""
    return await _submit(tx, requester, vm_id, Action.STOP, NO_PARAMETERS)


async def reboot_vm(tx: AsyncConnection, requester: Requester, vm_id: UUID, *, hard: bool) -> Accepted[VM]:
    """Reboot the requester's VM: its guest restarts or, with `hard`, its power is cycled."""
    action, kind = (Action.REBOOT_HARD, "HARD") if hard else (Action.REBOOT_SOFT, "SOFT")
    return await _submit(tx, requester, vm_id, action, Reboot(kind))


async def resize_vm(
    tx: AsyncConnection, requester: Requester, vm_id: UUID, choice: Choice, confirm_window: int
) -> Accepted[VM]:
    """Resize the requester's VM; the resize confirms itself `confirm_window` seconds after its end, or never if 0.

    The new flavor's disk may be smaller than the old one's, but not smaller than the image
    or snapshot that the VM was built from.
    """
    vm = await lock_changeable_vm(tx, requester, vm_id)
    await check_allowed(tx, vm, Action.RESIZE)  # a refusal by the state comes before one by the flavor
    is_either = or_(Flavor.id == vm.flavor_id, Flavor.id == choice.id, Flavor.name.in_(choice.spellings))
    flavors = await fetch_all(tx, select(Flavor).where(is_either))
    flavor = pick_one([flavor for flavor in flavors if flavor.is_available], choice, "flavor")
    previous = next(flavor for flavor in flavors if flavor.id == vm.flavor_id)
    if flavor.id == previous.id:
        raise SameFlavorError(flavor.name, choice.field)
    await boot_sources.check_fits(tx, vm, flavor.name, flavor.disk_gb, choice.field)
    parameters = Resize(flavor.id, flavor.name, previous.id, previous.name)
    control = Control(confirm_window=confirm_window)
    vm = await accept(tx, vm, requested(requester, Action.RESIZE, parameters, control=control))
    await reserve(tx, vm.id, previous, flavor)
    return Accepted(await shown_vm(tx, vm.id), vm.operation_id)


async def delete_vm(tx: AsyncConnection, requester: Requester, vm_id: UUID) -> Accepted[VM]:
    """Delete the requester's VM in any state; if it is DELETING or DELETED already, return that operation."""
    vm = await lock_changeable_vm(tx, requester, vm_id)
    if vm.status in {Status.DELETING, Status.DELETED}:
        return Accepted(vm, vm.operation_id, is_new=False)
    vm = await accept(tx, vm, requested(requester, Action.DELETE, NO_PARAMETERS))
    return Accepted(vm, vm.operation_id)


async def _submit(
    tx: AsyncConnection, requester: Requester, vm_id: UUID, action: Action, parameters: Parameters
) -> Accepted[VM]:
    vm = await lock_changeable_vm(tx, requester, vm_id)
    vm = await accept(tx, vm, requested(requester, action, parameters))
    return Accepted(await shown_vm(tx, vm.id), vm.operation_id)
