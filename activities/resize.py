"""The steps that resize servers, and the activities around the window in which a resize can be confirmed."""

from typing import Final

from sqlalchemy import select
from temporalio import activity

from activities.backends.resources import ServerSpec
from activities.steps import RecordedStep, StepActivities, check_size, ref_of, undo_token
from domain.commands import resize_decisions
from domain.data import database
from domain.data.models import VM
from domain.data.parameters import Resize, parameters_of, target_flavor
from domain.progress import step_records, workflow_input
from domain.rules.messages import Activity, CheckFlavorInput, OperationInput
from domain.rules.resize_messages import ClaimConfirmResult, ConfirmWindowResult

# Seconds. The resize workflow carries out the confirm that it claims. The dispatcher delivers that confirm only if the
# workflow has not begun it by then.
CONFIRM_DELIVERY_DELAY: Final = 30.0


class ResizeActivities(StepActivities):
    """Steps of a resize, its confirm and its revert."""

    @activity.defn(name=Activity.PREPARE_RESIZE)
    async def prepare_resize(self, input: OperationInput) -> bool:
        """Record the step: the cloud itself finds a host when it resizes the server.

        With `combines`, begin to resize the server, and return true. The VM is in the first step since the request.
        """
        if not input.combines:
            await self._record_step(input, Activity.PREPARE_RESIZE)
            return False
        await self.resize_server(input)
        return True

    @activity.defn(name=Activity.RESIZE_SERVER)
    async def resize_server(self, input: OperationInput) -> None:
        """Begin to resize the server to the new flavor."""
        step = await self._record_step(input, Activity.RESIZE_SERVER)
        await self._backend.resize_server(step.token, await self._new_spec(step))

    @activity.defn(name=Activity.FINISH_RESIZE)
    async def finish_resize(self, input: OperationInput) -> None:
        """Check that the server has its new size; `resize_not_applied` if it does not."""
        step = await self._record_step(input, Activity.FINISH_RESIZE)
        await self._check_size(await self._new_spec(step))

    @activity.defn(name=Activity.CONFIRM_RESIZE)
    async def confirm_resize(self, input: OperationInput) -> None:
        """Begin to release the old size."""
        step = await self._record_step(input, Activity.CONFIRM_RESIZE)
        await self._backend.confirm_server_resize(step.token, ref_of(step.vm))

    @activity.defn(name=Activity.REVERT_RESIZE)
    async def revert_resize(self, input: OperationInput) -> None:
        """Begin to return the server to its old size."""
        step = await self._record_step(input, Activity.REVERT_RESIZE)
        await self._backend.revert_server_resize(step.token, ref_of(step.vm))

    @activity.defn(name=Activity.CHECK_FLAVOR)
    async def check_flavor(self, input: CheckFlavorInput) -> None:
        """Check that the server has the expected flavor; `resize_not_applied` if it does not.

        The status does not show it. It is the same after a confirm and after a revert, and an administrator of the
        cloud may have chosen the other one.
        """
        vm, operation = await self._check_holds_vm(input.operation)
        flavor_id = parameters_of(operation, Resize).previous_flavor_id if input.previous else target_flavor(operation)
        await self._check_size(await self._server_spec(vm, flavor_id))

    async def _check_size(self, spec: ServerSpec) -> None:
        check_size(await self._server_of(spec.vm), spec)

    @activity.defn(name=Activity.UNDO_RESIZE)
    async def undo_resize(self, input: OperationInput) -> None:
        """Revoke the operation, then begin to return the server to its old size."""
        operation = await self._revoke(input)
        vm = await self._fetch(select(VM).where(VM.id == input.vm_id))
        flavors = parameters_of(operation, Resize)
        old = await self._server_spec(vm, flavors.previous_flavor_id)
        new = await self._server_spec(vm, flavors.flavor_id)
        server = await self._server_of(ref_of(vm))
        # A server that still has its old size was not resized by this operation. If it is in VERIFY_RESIZE, an earlier
        # resize awaits its decision, and a revert would undo that one.
        if server is not None and server.has_size_of(old) and not server.has_size_of(new):
            return
        await self._backend.revert_server_resize(undo_token(input, Activity.UNDO_RESIZE), ref_of(vm))

    async def _new_spec(self, step: RecordedStep) -> ServerSpec:
        return await self._server_spec(step.vm, parameters_of(step.operation, Resize).flavor_id)

    @activity.defn(name=Activity.READ_CONFIRM_WINDOW)
    async def read_confirm_window(self, input: OperationInput) -> ConfirmWindowResult:
        """Return the seconds until the resize confirms itself, by the database's clock; None if it does not."""
        async with database.autocommit(self._engine).connect() as connection:
            seconds = await step_records.read_confirm_window(connection, input)
            return ConfirmWindowResult(
                seconds, not await resize_decisions.can_be_decided(connection, input.vm, input.operation_id)
            )

    @activity.defn(name=Activity.CLAIM_CONFIRM)
    async def claim_confirm(self, resize: OperationInput) -> ClaimConfirmResult:
        """Accept the confirm at the end of the window, unless a user decided first; a retry gives the same answer."""
        async with self._engine.begin() as tx:
            confirm = await resize_decisions.confirm_by_window(
                tx, resize.vm, resize.operation_id, deliver_in=CONFIRM_DELIVERY_DELAY
            )
            if confirm is None:
                return ClaimConfirmResult(
                    None, not await resize_decisions.can_be_decided(tx, resize.vm, resize.operation_id)
                )
        return ClaimConfirmResult(workflow_input.input_of(confirm, resize.vm_name))

    @activity.defn(name=Activity.DROP_CONFIRM_WINDOW)
    async def drop_confirm_window(self, input: OperationInput) -> None:
        """Stop showing a time at which the resize confirms itself; users can still confirm or revert it."""
        async with self._engine.begin() as tx:
            await step_records.drop_confirm_window(tx, input)
