"""Errors with a stable snake_case code; what HTTP makes of them is the API's business."""

from typing import ClassVar


class ServiceError(Exception):
    """An outcome a caller can act on; the message is for a person, `code` for a program."""

    code: ClassVar[str]


class NotFoundError(ServiceError):
    """No such resource, or another owner's."""

    code = "not_found"

    def __init__(self, resource: str, id: object) -> None:
        super().__init__(f"There is no {resource} {id}.")


class InvalidTransitionError(ServiceError):
    """The lifecycle table refuses the action in the VM's present state."""

    code = "invalid_transition"

    def __init__(self, word: str, status: str, task_state: str | None, allowed_actions: list[str]) -> None:
        doing = f" while it is {task_state}" if task_state else ""
        allowed = ", ".join(allowed_actions) or "nothing"
        super().__init__(f"Cannot {word} a VM in status {status}{doing}; allowed now: {allowed}.")
        self.status = status
        self.task_state = task_state
        self.allowed_actions = allowed_actions


class IllegalStepError(ServiceError):
    """A workflow asked for a step the table does not have there: a bug, never a user's doing."""

    code = "illegal_step"


class SupersededError(ServiceError):
    """The operation no longer holds its VM: it ended, or a delete took over."""

    code = "superseded"
