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
    """The lifecycle table refuses the action in the present state of the VM, or of another `resource`."""

    code = "invalid_transition"

    def __init__(
        self, word: str, status: str, task_state: str | None, allowed_actions: list[str], resource: str = "VM"
    ) -> None:
        super().__init__(f"{self._why(word, status, task_state, resource)}; allowed now: {_list(allowed_actions)}.")
        self.status = status
        self.task_state = task_state
        self.allowed_actions = allowed_actions

    @staticmethod
    def _why(word: str, status: str, task_state: str | None, resource: str) -> str:
        doing = f" while it is {task_state}" if task_state else ""
        article = "an" if resource[0] in "aeiou" else "a"
        return f"Cannot {word} {article} {resource} in status {status}{doing}"


class AttachmentInProgressError(InvalidTransitionError):
    """The lifecycle table refuses the action while a volume or interface is being attached or detached."""

    code = "attachment_in_progress"

    @staticmethod
    def _why(word: str, status: str, task_state: str | None, resource: str) -> str:
        del status, task_state
        return f"Cannot {word} a {resource} while something is being attached to it or detached from it"


class NoFreeAddressError(ServiceError):
    """Every address of the network is given out."""

    code = "no_free_address"

    def __init__(self, network: str) -> None:
        super().__init__(f"Network {network} has no free address; detach an interface from it, or name another.")


class NoFreeDeviceError(ServiceError):
    """The VM has as many volumes as it can have."""

    code = "no_free_device"

    def __init__(self, most: int) -> None:
        super().__init__(f"A VM has at most {most} volumes; detach one.")


class TooLateError(ServiceError):
    """The operation is past its point of no return, or has ended."""

    code = "too_late"


class NotRetryableError(ServiceError):
    """The operation has not failed, or it made what is there no more to be made."""

    code = "not_retryable"


class CanceledError(ServiceError):
    """Somebody canceled the operation before it began its next step."""

    code = "canceled"

    def __init__(self, by: str) -> None:
        super().__init__(f"{by} canceled the operation.")


class NotBegunError(ServiceError):
    """The operation ended before its first step: there is nothing to undo, or to see."""

    code = "not_begun"


class IllegalStepError(ServiceError):
    """A workflow asked for a step the table does not have there: a bug, never a user's doing."""

    code = "illegal_step"


class SupersededError(ServiceError):
    """The operation no longer holds its VM: it ended, or a delete took over."""

    code = "superseded"


def _list(words: list[str]) -> str:
    return ", ".join(words) or "nothing"
