"""What keeps a signal that a person sends by hand from stopping a workflow.

A handler that raises fails the workflow's task, again and again, until somebody terminates the workflow.
"""

from temporalio.worker import HandleSignalInput, Interceptor, WorkflowInboundInterceptor, WorkflowInterceptorClassInput


class SignalInterceptor(Interceptor):
    """Passes over signals with more arguments than any handler takes; whether one makes sense its handler says."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """What is put before every workflow."""
        del input
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        if len(input.args) <= 1:
            await super().handle_signal(input)
