"""What can be asked of a VM; the lifecycle table says when."""

from functools import partial
from uuid import UUID

from fastapi import Response

from api import openapi, schemas
from api.deps import CurrentUser
from api.idempotency import OncePerKey
from api.operations import submit
from api.routes import router
from domain.lifecycle import Action

routes = router("/vms/{vm_id}/actions", "VMs")
action = partial(
    routes.post,
    status_code=202,
    response_model=schemas.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("invalid_transition"),
)

_REBOOTS = {"SOFT": Action.REBOOT_SOFT, "HARD": Action.REBOOT_HARD}


@action("/start")
async def start_vm(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: schemas.NoInput | None = None) -> Response:
    """Switch a VM on."""
    return await once(lambda tx: submit(tx, caller, vm_id, Action.START), body)


@action("/stop")
async def stop_vm(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: schemas.NoInput | None = None) -> Response:
    """Switch a VM off."""
    return await once(lambda tx: submit(tx, caller, vm_id, Action.STOP), body)


@action("/reboot")
async def reboot_vm(caller: CurrentUser, once: OncePerKey, vm_id: UUID, body: schemas.Reboot | None = None) -> Response:
    """Restart a VM: SOFT through its guest, HARD by its power, which also works on one that is off or in ERROR."""
    asked = body or schemas.Reboot()
    return await once(lambda tx: submit(tx, caller, vm_id, _REBOOTS[asked.type], asked.model_dump()), asked)
