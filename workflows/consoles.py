"""Read a console for a request that waits for the answer.

It changes nothing and ends within seconds, whatever happens. So it has no operation, records nothing, and a worker of
another version that cannot continue it only makes the request fail. The replay tests leave it out.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from domain.rules.console import ANSWER_REQUEST, ANSWER_TIMEOUT, ATTEMPT_TIMEOUT, READ_CONSOLE, ConsoleRequest

ATTEMPTS = RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=2))


@workflow.defn(name=READ_CONSOLE)
class ReadConsole:
    """Has a worker answer a request for a console."""

    @workflow.run
    async def run(self, request: ConsoleRequest) -> None:
        """Answer one request."""
        await workflow.execute_activity(
            ANSWER_REQUEST,
            request,
            summary=f"Read the {request.kind} of the console",
            start_to_close_timeout=timedelta(seconds=ATTEMPT_TIMEOUT),  # then another worker may try
            schedule_to_close_timeout=timedelta(seconds=ANSWER_TIMEOUT),
            retry_policy=ATTEMPTS,
        )
