"""The actions on a VM. The lifecycle table says when each is allowed."""

from functools import partial
from uuid import UUID

from fastapi import Response

from api.routes import answers, requests, router
from api.routes.requested_vms import choice_of
from api.routes.resources import OnceOrTrialOnVM
from api.web import openapi
from api.web.dependencies import Process
from api.web.responses import respond_202
from domain.commands import vms
from domain.commands.resize_decisions import decide_resize
from domain.rules.states import Action

routes = router("/vms/{vm_id}/actions", "vms")
post_action = partial(
    routes.post,
    status_code=202,
    response_model=answers.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
)
action = partial(post_action, openapi_extra=openapi.problems("invalid_transition", "quota_exceeded"))


@action("/start")
async def start_vm(once: OnceOrTrialOnVM, vm_id: UUID, body: requests.NoInput | None = None) -> Response:
    """Power a VM on."""
    return await once(lambda tx, requester: respond_202(vms.start_vm(tx, requester, vm_id), answers.VM), body)


@action("/stop")
async def stop_vm(once: OnceOrTrialOnVM, vm_id: UUID, body: requests.NoInput | None = None) -> Response:
    """Shut a VM down."""
    return await once(lambda tx, requester: respond_202(vms.stop_vm(tx, requester, vm_id), answers.VM), body)


@action("/reboot")
async def reboot_vm(once: OnceOrTrialOnVM, vm_id: UUID, body: requests.Reboot | None = None) -> Response:
    """Reboot a VM: SOFT through its guest, HARD by its power. HARD also works on a VM that is off or in ERROR."""
    reboot = body or requests.Reboot()
    hard = reboot.type == "HARD"
    return await once(
        lambda tx, requester: respond_202(vms.reboot_vm(tx, requester, vm_id, hard=hard), answers.VM), reboot
    )


_REFUSALS_OF_RESIZE = (
    "invalid_transition",
    "quota_exceeded",
    "attachment_in_progress",
    "unknown_reference",
    "ambiguous_name",
    "same_flavor",
    "flavor_too_small",
)


@post_action("/resize", openapi_extra=openapi.problems(*_REFUSALS_OF_RESIZE))
async def resize_vm(process: Process, once: OnceOrTrialOnVM, vm_id: UUID, body: requests.Resize) -> Response:
    """Give a VM another flavor, larger or smaller. Confirm or revert the resize afterwards.

    In VERIFY_RESIZE the VM runs with the new flavor, and the old one is kept so that you can go back. If the service
    confirms the resize by itself, `confirm_by` says when.
    """
    flavor, window = choice_of(body.flavor, body.flavor_id, "flavor"), process.settings.resize_confirm_window
    return await once(
        lambda tx, requester: respond_202(vms.resize_vm(tx, requester, vm_id, flavor, window), answers.VM), body
    )


@action("/confirm-resize")
async def confirm_vm_resize(once: OnceOrTrialOnVM, vm_id: UUID, body: requests.NoInput | None = None) -> Response:
    """Keep the new flavor of a VM in VERIFY_RESIZE and give the old one up."""
    return await once(
        lambda tx, requester: respond_202(decide_resize(tx, requester, vm_id, Action.CONFIRM_RESIZE), answers.VM), body
    )


@action("/revert-resize")
async def revert_vm_resize(once: OnceOrTrialOnVM, vm_id: UUID, body: requests.NoInput | None = None) -> Response:
    """Put a VM in VERIFY_RESIZE back to its old flavor."""
    return await once(
        lambda tx, requester: respond_202(decide_resize(tx, requester, vm_id, Action.REVERT_RESIZE), answers.VM), body
    )
