"""The runner of the workers, which keeps workflows deterministic."""

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import StorageDriverStoreContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import Info


class Sandbox(SandboxedWorkflowRunner):
    """The SDK's sandbox, without the context of each payload."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Return a run of a workflow in a sandbox of its own."""
        return _WithoutContexts(super().create_instance(det))


class _WithoutContexts(WorkflowInstance):
    """A run of a workflow that does not say which activity a payload is for.

    The SDK asks for it three times for each payload, and each time compiles and runs code in the sandbox. That took a
    quarter of the processor time of a workflow. Our codec (`domain/payload_codec.py`) treats all payloads alike, and
    they are not kept outside of Temporal.
    """

    def __init__(self, instance: WorkflowInstance) -> None:
        self._instance = instance

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        return self._instance.activate(act)

    def get_serialization_context(self, command_info: object) -> None:
        del command_info

    def get_external_store_context(self, command_info: object) -> StorageDriverStoreContext:
        del command_info
        return StorageDriverStoreContext(target=None)

    def get_info(self) -> Info:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()


def sandbox(*, is_strict: bool = False) -> Sandbox:
    """Return the runner.

    `domain` is passed through: the modules that workflows import from it are pure, and loading them again for every
    workflow would be slow. So is `workflows`, whose modules have no state (tests/workflows), unless the sandbox is
    strict. The tests use the strict one: it also refuses what a module of `workflows` itself calls, such as the clock.
    """
    modules = ("domain",) if is_strict else ("domain", "workflows")
    return Sandbox(restrictions=SandboxRestrictions.default.with_passthrough_modules(*modules))
