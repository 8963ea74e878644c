"""Start, stop and reboot a VM."""

from temporalio import workflow

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, OperationInput
from domain.rules.states import Action
from workflows.steps import OperationWorkflow


@workflow.defn
class StartVM(OperationWorkflow):
    """Powers a VM's server on."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a start operation."""
        async with self.carrying_out(operation, success_state=ServerStatus.ACTIVE) as outcome:
            await self.step(Activity.START_SERVER, operation, "Power the server on")
            summary = "Wait for the server to run"
            outcome.is_recorded = await self.wait_and_record(operation, ServerStatus.ACTIVE, summary)


@workflow.defn
class StopVM(OperationWorkflow):
    """Shuts a VM's server down."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a stop operation."""
        async with self.carrying_out(operation, success_state=ServerStatus.SHUTOFF) as outcome:
            await self.step(Activity.STOP_SERVER, operation, "Shut the server down")
            summary = "Wait for the server to be off"
            outcome.is_recorded = await self.wait_and_record(operation, ServerStatus.SHUTOFF, summary)


@workflow.defn
class RebootVM(OperationWorkflow):
    """Reboots a VM's server: SOFT asks the guest to reboot, HARD cycles the power."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out a reboot operation."""
        async with self.carrying_out(operation) as outcome:
            if operation.action is Action.REBOOT_HARD:
                await self.step(Activity.REBOOT_SERVER_HARD, operation, "Power-cycle the server")
            else:
                await self.step(Activity.REBOOT_SERVER, operation, "Reboot the server")
            summary = "Wait for the server to run"
            outcome.is_recorded = await self.wait_and_record(operation, ServerStatus.ACTIVE, summary)
