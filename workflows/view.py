"""What an operator sees of a workflow in the Temporal Web UI without knowing this code."""

from datetime import datetime

from temporalio import workflow

from domain import search_attributes
from domain.rules import lifecycle
from domain.rules.markdown import quoted, title
from domain.rules.messages import ENTERS, Activity, FailedAttemptInput, OperationInput, StateResult
from domain.rules.states import Status, TaskState

UNTIL_CONFIRMED = "waits for confirm-resize or revert-resize"


class View:
    """Follows a workflow along, as its current details (Markdown), its answer to `state`, and what it waits for."""

    def __init__(self) -> None:
        self._operation: OperationInput | None = None
        self._status: Status | None = None
        self._task_state: TaskState | None = None
        self._activity: Activity | None = None
        self._doing = ""
        self._until: datetime | None = None
        self._last_error = ""
        self._waits_for: str | None = None

    @property
    def state(self) -> StateResult:
        """Status and task state of the VM that is held."""
        return StateResult(self._status, self._task_state)

    def begins(self, operation: OperationInput) -> None:
        """An operation is carried out from here on."""
        self._operation = operation
        if operation.previous_status:
            claim = lifecycle.claimed(operation.action, operation.previous_status)
            self._status, self._task_state = claim.status, claim.task_state
        self._last_error = ""
        self._show("begins")

    def does(self, activity: Activity, summary: str) -> None:
        """An activity is under way."""
        self._activity = activity
        self._task_state = ENTERS.get(activity, self._task_state)
        self._show(summary)

    def failed(self, failure: FailedAttemptInput) -> None:
        """An attempt failed and is followed by others; it may be told of too late to be news."""
        if failure.activity == self._activity:
            self._last_error = f"attempt {failure.attempt}: {failure.error}"
            self._show(self._doing, waits_for=search_attributes.RETRY)

    def ends(self, status: Status | None) -> None:
        """The operation has ended and left the VM it held, if it held one, in this status."""
        self._status, self._task_state, self._activity = status, None, None
        self._show("has ended")

    def fails(self, error: str) -> None:
        """Why the operation will end badly."""
        self._last_error = error

    def awaits_decision(self, resize: OperationInput, until: datetime | None) -> None:
        """The resize is done and waits for a person, or for `until`."""
        self._operation = resize
        self._status, self._task_state, self._activity = Status.VERIFY_RESIZE, None, None
        self._show(UNTIL_CONFIRMED, until, search_attributes.CONFIRMATION)

    def _show(self, doing: str, until: datetime | None = None, waits_for: str | None = None) -> None:
        self._doing, self._until = doing, until
        if waits_for != self._waits_for:
            key = search_attributes.WAITS_FOR
            workflow.upsert_search_attributes([key.value_set(waits_for) if waits_for else key.value_unset()])
            self._waits_for = waits_for
        workflow.set_current_details(self._markdown())

    def _markdown(self) -> str:
        operation = self._operation
        if operation is None:
            return ""
        until = f"{self._until:%Y-%m-%d %H:%M:%S} UTC, then it is confirmed" if self._until else "somebody decides"
        resource_id = operation.resource_id
        again = ", again after a failed attempt" if self._waits_for == search_attributes.RETRY else ""
        lines = {
            "For": quoted(operation.actor),
            **({"State": f"{self._status}, {self._task_state or 'no task state'}"} if self._status else {}),
            "Now": f"{self._doing}{again}",
            **({"Until": until} if self._doing == UNTIL_CONFIRMED else {}),
            "Last error": quoted(self._last_error) if self._last_error else "none",
            **({"VM": f"`{operation.vm_id}`"} if operation.vm_id else {}),
            **({"Resource": f"`{resource_id}`"} if resource_id not in {None, operation.vm_id} else {}),
            "Operation": f"`{operation.operation_id}`",
        }
        heading = f"### {title(operation.action.word, operation.vm_name, operation.about)}"
        return "\n".join([heading, "", *(f"- **{name}:** {text}" for name, text in lines.items())])
