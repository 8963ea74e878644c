"""What can be asked of a VM; the lifecycle table says when."""

from functools import partial
from uuid import UUID

from fastapi import Response

from api import bodies, schemas
from api.operations import resize_vm as submit_resize
from api.operations import submit
from api.routes import router
from api.web import openapi
from api.web.dependencies import CurrentUser, Process
from api.web.idempotency import OncePerKey
from domain.rules.states import Action

routes = router("/vms/{vm_id}/actions", "VMs")
accepting = partial(
    routes.post,
    status_code=202,
    response_model=schemas.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
)
action = partial(accepting, openapi_extra=openapi.problems("invalid_transition"))

_REBOOTS = {"SOFT": Action.REBOOT_SOFT, "HARD": Action.REBOOT_HARD}


@action("/start")
async def start_vm(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: bodies.NoInput | None = None) -> Response:
    """Switch a VM on."""
    return await once(lambda tx: submit(tx, caller, vm_id, Action.START), body)


@action("/stop")
async def stop_vm(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: bodies.NoInput | None = None) -> Response:
    """Switch a VM off."""
    return await once(lambda tx: submit(tx, caller, vm_id, Action.STOP), body)


@action("/reboot")
async def reboot_vm(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: bodies.Reboot | None = None) -> Response:
    """Restart a VM: SOFT through its guest, HARD by its power, which also works on one that is off or in ERROR."""
    asked = body or bodies.Reboot()
    return await once(lambda tx: submit(tx, caller, vm_id, _REBOOTS[asked.type], asked.model_dump()), asked)


_REFUSALS_OF_RESIZE = ("invalid_transition", "attachment_in_progress", "unknown_reference", "same_flavor")


@accepting("/resize", openapi_extra=openapi.problems(*_REFUSALS_OF_RESIZE))
async def resize_vm(
    caller: CurrentUser, process: Process, once: OncePerKey, vm_id: UUID, body: bodies.Resize
) -> Response:
    """Give a VM another flavor, larger or smaller; then confirm or revert what has become of it.

    Once the VM is in VERIFY_RESIZE it runs with the new flavor, and the old one is kept for going back. Where the
    service confirms by itself, `confirm_by` says when.
    """
    window = process.settings.resize_confirm_window
    return await once(lambda tx: submit_resize(tx, caller, vm_id, body.flavor_id, window), body)


@action("/confirm-resize")
async def confirm_resize_of_vm(
    caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: bodies.NoInput | None = None
) -> Response:
    """Keep the new flavor of a VM in VERIFY_RESIZE, and give the old one up."""
    return await once(lambda tx: submit(tx, caller, vm_id, Action.CONFIRM_RESIZE), body)


@action("/revert-resize")
async def revert_resize_of_vm(
    caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: bodies.NoInput | None = None
) -> Response:
    """Put a VM in VERIFY_RESIZE back to its old flavor."""
    return await once(lambda tx: submit(tx, caller, vm_id, Action.REVERT_RESIZE), body)
