"""How long an operation waits for the cloud."""

from datetime import timedelta
from time import monotonic

from temporalio import activity

from activities.backends.protocol import BackendError

WAIT_LIMIT = timedelta(minutes=30)


class Patience:
    """How long a wait has lasted, all its attempts included.

    This machine's clock may be hours ahead of Temporal's, or jump, and then a wait would be over as soon as it begins.
    So Temporal's clock tells when this attempt began, and the time since then is counted here.
    """

    def __init__(self) -> None:
        info = activity.info()
        self._began = monotonic() - (info.started_time - info.scheduled_time).total_seconds()

    def is_longer_than(self, limit: timedelta) -> bool:
        """Whether the wait has lasted longer than this."""
        return monotonic() - self._began > limit.total_seconds()

    def check(self, problem: str) -> None:
        """BackendError if the wait has lasted too long.

        Called only after a poll. If the resource reached its target while no worker was running, the wait has
        succeeded, however late it is.
        """
        if self.is_longer_than(WAIT_LIMIT):
            message = f"{problem} within {WAIT_LIMIT.seconds // 60} minutes."
            raise BackendError("timed_out", message, retryable=False)
