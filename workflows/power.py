"""Power: start, stop, reboot."""

from temporalio import workflow

from domain.lifecycle import Action
from domain.messages import Activity, OperationInput, ServerStatus
from workflows.steps import carrying_out, step, wait_for_server


@workflow.defn
class StartVM:
    """Powers a VM's server on."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one start operation."""
        async with carrying_out(operation, arrives=ServerStatus.ACTIVE):
            await step(Activity.START_SERVER, operation, "Power the server on")
            await wait_for_server(operation, ServerStatus.ACTIVE, "Wait for the server to run")


@workflow.defn
class StopVM:
    """Shuts a VM's server down."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one stop operation."""
        async with carrying_out(operation, arrives=ServerStatus.SHUTOFF):
            await step(Activity.STOP_SERVER, operation, "Shut the server down")
            await wait_for_server(operation, ServerStatus.SHUTOFF, "Wait for the server to be off")


@workflow.defn
class RebootVM:
    """Reboots a VM's server, as its guest would (SOFT) or by its power (HARD)."""

    @workflow.run
    async def run(self, operation: OperationInput) -> None:
        """Carry out one reboot operation."""
        async with carrying_out(operation):
            if operation.action is Action.REBOOT_HARD:
                await step(Activity.REBOOT_SERVER_HARD, operation, "Reboot the server by its power")
            else:
                await step(Activity.REBOOT_SERVER, operation, "Reboot the server")
            await wait_for_server(operation, ServerStatus.ACTIVE, "Wait for the server to run")
