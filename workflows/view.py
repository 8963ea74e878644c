"""What the Temporal Web UI shows of a workflow: its current details and the search attribute WaitsFor.

The view drives running workflows. An upsert of a search attribute is a workflow command, and commands must come in the
same order at every replay. So a change of when the view upserts must be behind a patch id. The current details are not
a command: their text may change.
"""

from datetime import datetime

from temporalio import workflow

from domain import search_attributes
from domain.rules import lifecycle
from domain.rules.markdown import quoted, title
from domain.rules.messages import ENTERS, Activity, FailedAttemptInput, OperationInput, StateResult
from domain.rules.states import Status, TaskState

WAITS_FOR_DECISION = "waits for confirm-resize or revert-resize"


class View:
    """Keeps a workflow's current details (Markdown), its answer to the query `state`, and WaitsFor up to date."""

    def __init__(self) -> None:
        self._operation: OperationInput | None = None
        self._status: Status | None = None
        self._task_state: TaskState | None = None
        self._activity: Activity | None = None
        self._doing = ""
        self._deadline: datetime | None = None
        self._last_error = ""
        self._waits_for: str | None = None

    @property
    def state(self) -> StateResult:
        """The status and task state of the VM."""
        return StateResult(self._status, self._task_state)

    def operation_started(self, operation: OperationInput) -> None:
        """Show an operation that the workflow begins to carry out."""
        self._operation = operation
        if operation.previous_status:
            claim = lifecycle.claimed(operation.action, operation.previous_status)
            self._status, self._task_state = claim.status, claim.task_state
        self._last_error = ""
        self._show("begins")

    def activity_started(self, activity: Activity, summary: str) -> None:
        """Show the activity that runs now."""
        self._activity = activity
        self._task_state = ENTERS.get(activity, self._task_state)
        self._show(summary)

    def step_entered(self, step: Activity) -> None:
        """Show the task state of a step that another step's activity has done."""
        self._task_state = ENTERS[step]

    def attempt_failed(self, failure: FailedAttemptInput) -> None:
        """Show a failed attempt, unless the workflow has gone on to another activity."""
        if failure.activity == self._activity:
            self._last_error = f"attempt {failure.attempt}: {failure.error}"
            self._show(self._doing, waits_for=search_attributes.RETRY)

    def operation_ended(self, status: Status | None) -> None:
        """Show that the operation has ended, and the status of its VM if it held one."""
        self._status, self._task_state, self._activity = status, None, None
        self._show("has ended")

    def operation_failed(self, error: str) -> None:
        """Keep the error of a failed operation, to show it from the next activity on."""
        self._last_error = error

    def decision_awaited(self, resize: OperationInput, deadline: datetime | None) -> None:
        """Show that the resize waits for its decision, at most until the deadline."""
        self._operation = resize
        self._status, self._task_state, self._activity = Status.VERIFY_RESIZE, None, None
        self._show(WAITS_FOR_DECISION, deadline, search_attributes.CONFIRMATION)

    def _show(self, doing: str, deadline: datetime | None = None, waits_for: str | None = None) -> None:
        self._doing, self._deadline = doing, deadline
        if waits_for != self._waits_for:
            key = search_attributes.WAITS_FOR
            workflow.upsert_search_attributes([key.value_set(waits_for) if waits_for else key.value_unset()])
            self._waits_for = waits_for
        workflow.set_current_details(self._markdown())

    def _markdown(self) -> str:
        operation = self._operation
        if operation is None:
            return ""
        until = (
            f"{self._deadline:%Y-%m-%d %H:%M:%S} UTC, then it is confirmed" if self._deadline else "somebody decides"
        )
        resource_id = operation.resource_id
        again = ", again after a failed attempt" if self._waits_for == search_attributes.RETRY else ""
        lines = {
            **({"For": quoted(operation.actor)} if operation.actor else {}),
            **({"State": f"{self._status}, {self._task_state or 'no task state'}"} if self._status else {}),
            "Now": f"{self._doing}{again}",
            **({"Until": until} if self._doing == WAITS_FOR_DECISION else {}),
            "Last error": quoted(self._last_error) if self._last_error else "none",
            **({"VM": f"`{operation.vm_id}`"} if operation.vm_id else {}),
            **({"Resource": f"`{resource_id}`"} if resource_id not in {None, operation.vm_id} else {}),
            "Operation": f"`{operation.operation_id}`",
        }
        heading = f"### {title(operation.action.word, operation.vm_name, operation.about)}"
        return "\n".join([heading, "", *(f"- **{name}:** {text}" for name, text in lines.items())])
