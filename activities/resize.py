"""The steps of resizing servers, and who may end a resize."""

from typing import Final
from uuid import UUID

from sqlalchemy import select
from temporalio import activity

from activities.backends.protocol import BackendError, ServerSpec
from activities.steps import Entered, StepActivities, undoing
from domain.commands import resize_decisions
from domain.data import database, queries
from domain.data.models import VM
from domain.progress import step_records, workflow_input
from domain.rules.messages import Activity, CheckFlavorInput, ClaimConfirmResult, ConfirmWindowResult, OperationInput

# Seconds before the outbox takes care of a confirm that its resize has claimed and carries out by itself.
OUTBOX_AFTER: Final = 30.0


class ResizeActivities(StepActivities):
    """Steps on a server that gets another flavor, and records of what its resize waits for."""

    @activity.defn(name=Activity.PREPARE_RESIZE)
    async def prepare_resize(self, input: OperationInput) -> None:
        """Find a host for the new flavor; `no_valid_host` where none can hold it."""
        entered = await self._enter(input, Activity.PREPARE_RESIZE)
        await self._backend.select_host(entered.token, await self._new_spec(entered))

    @activity.defn(name=Activity.RESIZE_SERVER)
    async def resize_server(self, input: OperationInput) -> None:
        """Begin to move the server to the new flavor."""
        entered = await self._enter(input, Activity.RESIZE_SERVER)
        await self._backend.resize_server(entered.token, await self._new_spec(entered))

    @activity.defn(name=Activity.FINISH_RESIZE)
    async def finish_resize(self, input: OperationInput) -> None:
        """See that the server has its new size; `resize_not_applied` where it has not."""
        entered = await self._enter(input, Activity.FINISH_RESIZE)
        await self._check(await self._new_spec(entered))

    @activity.defn(name=Activity.CONFIRM_RESIZE)
    async def confirm_resize(self, input: OperationInput) -> None:
        """Begin to give the old flavor up."""
        entered = await self._enter(input, Activity.CONFIRM_RESIZE)
        await self._backend.confirm_server_resize(entered.token, entered.vm.id)

    @activity.defn(name=Activity.REVERT_RESIZE)
    async def revert_resize(self, input: OperationInput) -> None:
        """Begin to go back to the old flavor."""
        entered = await self._enter(input, Activity.REVERT_RESIZE)
        await self._backend.revert_server_resize(entered.token, entered.vm.id)

    @activity.defn(name=Activity.CHECK_FLAVOR)
    async def check_flavor(self, input: CheckFlavorInput) -> None:
        """See that the server has the flavor it should have; `resize_not_applied` where somebody else was at it."""
        async with self._engine.begin() as tx:
            vm, operation = await step_records.check_holds(tx, input.operation)
        assert vm is not None  # noqa: S101 - a resize has one
        kept = "previous_flavor_id" if input.previous else "flavor_id"
        await self._check(await self._spec(vm, UUID(operation.input[kept])))

    async def _check(self, spec: ServerSpec) -> None:
        server = (await self._backend.list_servers([spec.vm_id])).get(spec.vm_id)
        if server is None or not server.has_size_of(spec):
            message = "The cloud is done, but the server does not have the size of the flavor it should have."
            raise BackendError("resize_not_applied", message, retryable=False)

    @activity.defn(name=Activity.UNDO_RESIZE)
    async def undo_resize(self, input: OperationInput) -> None:
        """Begin to take a failed resize back, after making sure that none of its calls can still take effect.

        A server that still has its size of before waits for the decision on an earlier resize, and is left alone.
        """
        operation = await self._revoke(input)
        async with database.autocommit(self._engine).connect() as connection:
            vm = await queries.fetch_one(connection, select(VM).where(VM.id == input.vm_id))
        assert vm is not None  # noqa: S101 - a resize has one
        before, after = [await self._spec(vm, UUID(operation.input[f"{of}flavor_id"])) for of in ("previous_", "")]
        server = (await self._backend.list_servers([vm.id])).get(vm.id)
        if server is not None and server.has_size_of(before) and not server.has_size_of(after):
            return
        await self._backend.revert_server_resize(undoing(input, Activity.UNDO_RESIZE), input.vm)

    async def _new_spec(self, entered: Entered) -> ServerSpec:
        return await self._spec(entered.vm, UUID(entered.operation.input["flavor_id"]))

    @activity.defn(name=Activity.READ_CONFIRM_WINDOW)
    async def read_confirm_window(self, input: OperationInput) -> ConfirmWindowResult:
        """How long the resize waits before it confirms itself, by the database's clock, if it waits at all."""
        async with database.autocommit(self._engine).connect() as connection:
            seconds = await step_records.read_confirm_window(connection, input)
            return ConfirmWindowResult(
                seconds, not await resize_decisions.can_be_decided(connection, input.vm, input.operation_id)
            )

    @activity.defn(name=Activity.CLAIM_CONFIRM)
    async def claim_confirm(self, resize: OperationInput) -> ClaimConfirmResult:
        """Let the end of the window confirm the resize, unless somebody was faster; again answers the same."""
        async with self._engine.begin() as tx:
            confirm = await resize_decisions.confirm_by_window(
                tx, resize.vm, resize.operation_id, deliver_in=OUTBOX_AFTER
            )
            if confirm is None:
                return ClaimConfirmResult(
                    None, not await resize_decisions.can_be_decided(tx, resize.vm, resize.operation_id)
                )
        return ClaimConfirmResult(workflow_input.input_of(confirm, resize.vm_name))

    @activity.defn(name=Activity.DROP_CONFIRM_WINDOW)
    async def drop_confirm_window(self, input: OperationInput) -> None:
        """Promise no longer that the resize confirms itself; it can still be confirmed or reverted."""
        async with self._engine.begin() as tx:
            await step_records.drop_confirm_window(tx, input)
