"""The errors of the service, each with a stable snake_case code. The API turns them into HTTP answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final
from uuid import UUID

from domain.rules.states import TaskState

_DOING: Final[dict[str, str]] = {
    TaskState.SCHEDULING: "being built",
    TaskState.NETWORKING: "being built",
    TaskState.SPAWNING: "being built",
    TaskState.POWERING_ON: "starting",
    TaskState.POWERING_OFF: "stopping",
    TaskState.REBOOTING: "rebooting",
    TaskState.REBOOTING_HARD: "rebooting",
    TaskState.RESIZE_PREP: "being resized",
    TaskState.RESIZE_MIGRATING: "being resized",
    TaskState.RESIZE_FINISH: "being resized",
    TaskState.RESIZE_CONFIRMING: "confirming its resize",
    TaskState.RESIZE_REVERTING: "reverting its resize",
    TaskState.IMAGE_SNAPSHOT: "taking a snapshot",
    TaskState.IMAGE_UPLOADING: "taking a snapshot",
    TaskState.RESTORING: "being restored from a snapshot",
    TaskState.DELETING: "being deleted",
}
"""What a VM is busy with, by task state."""

_VERBS: Final = {
    "resize": "resize",
    "confirm-resize": "confirm the resize of",
    "revert-resize": "revert the resize of",
    "snapshot": "take a snapshot of",
    "attach-volume": "attach a volume to",
    "detach-volume": "detach a volume from",
    "attach-interface": "attach an interface to",
    "detach-interface": "detach an interface from",
}
"""The words before "a VM" in a message, by action. An action that is missing here is a verb itself, such as "start"."""


@dataclass(frozen=True, slots=True)
class FieldIssue:
    """An invalid field of the request's body: its path in the body, such as `network_ids/0`, and why it is invalid.

    `candidates` are the ids of the things that its value may mean, if there are several.
    """

    field: str
    code: str
    detail: str
    candidates: tuple[UUID, ...] = ()


BUILD_AGAIN: Final = "build_again"
"""The code of a build that has failed for a reason that may pass, and of which the cloud keeps nothing."""


class ServiceError(Exception):
    """An outcome that the caller can act on. The message is for people, `code` for programs.

    `fields` names the fields of the request that caused it, if any did.
    """

    code: ClassVar[str]
    fields: Sequence[FieldIssue] = ()


class NotFoundError(ServiceError):
    """The resource does not exist, or another user owns it. `field` is the field of the body that names it, if any."""

    code = "not_found"

    def __init__(self, resource: str, id: object, field: str | None = None) -> None:
        super().__init__(f"There is no {resource} {id}.")
        if field is not None:
            self.fields = [unknown_id(field, id)]


class UnknownReferenceError(ServiceError):
    """The body refers to something that does not exist."""

    code = "unknown_reference"

    def __init__(self, message: str, fields: Sequence[FieldIssue]) -> None:
        super().__init__(message)
        self.fields = fields


class SameFlavorError(ServiceError):
    """A resize to the flavor that the VM has already."""

    code = "same_flavor"

    def __init__(self, flavor: str, field: str) -> None:
        message = f"The VM has this flavor already: {flavor}."
        super().__init__(message)
        self.fields = [FieldIssue(field, self.code, message)]


class FlavorTooSmallError(ServiceError):
    """The disk of the flavor is smaller than what it must hold. `field` is the body's field that names it, if any."""

    code = "flavor_too_small"

    def __init__(self, flavor: str, disk_gb: int, content: str, size_gb: int, field: str | None = None) -> None:
        message = f"Flavor {flavor} has a disk of {disk_gb} GiB, but {content} needs {size_gb} GiB."
        super().__init__(f"{message} Choose a flavor with a larger disk." if field else message)
        if field is not None:
            self.fields = [FieldIssue(field, self.code, message)]


class UserDataTooLargeError(ServiceError):
    """User data and SSH keys together are too large, for a VM or a whole batch. `field` has the most of them."""

    code = "user_data_too_large"

    def __init__(self, size: int, limit: int, field: str) -> None:
        message = f"User data and SSH keys together make {size:,} bytes for cloud-init; at most {limit:,} are taken."
        super().__init__(message)
        self.fields = [FieldIssue(field, self.code, message)]


class NameTakenError(ServiceError):
    """Another resource of the user has this name, and names of its kind are unique."""

    code = "name_taken"

    def __init__(self, resource: str, name: str) -> None:
        message = f"Another {resource} of yours has the name {name}."
        super().__init__(message)
        self.fields = [FieldIssue("name", self.code, message)]


class QuotaExceededError(ServiceError):
    """The user has as many as one may have."""

    code = "quota_exceeded"

    def __init__(self, quota: str, limit: int, used: int) -> None:
        super().__init__(f"You have {used} {quota}, and {limit} is the most. Delete one first.")


class InvalidTransitionError(ServiceError):
    """The lifecycle table refuses the action in the current state of the VM, or of another `resource`.

    `operation_id` is the operation that it has to wait for, if that is the reason.
    """

    code = "invalid_transition"

    def __init__(
        self, word: str, status: str, task_state: str | None, allowed_actions: list[str], resource: str = "VM"
    ) -> None:
        allowed = ", ".join(allowed_actions) or "nothing"
        super().__init__(f"{self._reason(word, status, task_state, resource)}; allowed now: {allowed}.")
        self.status = status
        self.task_state = task_state
        self.allowed_actions = allowed_actions
        self.operation_id: UUID | None = None

    @staticmethod
    def _reason(word: str, status: str, task_state: str | None, resource: str) -> str:
        if task_state:
            return f"The {resource} is busy {_DOING[task_state]}"
        return f"Cannot {_phrase(word, resource)} in status {status}"


class AttachmentInProgressError(InvalidTransitionError):
    """The action must wait until no volume or interface is being attached to the VM or detached from it."""

    code = "attachment_in_progress"

    @staticmethod
    def _reason(word: str, status: str, task_state: str | None, resource: str) -> str:
        del status, task_state
        return f"Cannot {_phrase(word, resource)} while a volume or an interface is being attached or detached"


class UnusableSourceError(InvalidTransitionError):
    """A VM cannot be created from the snapshot or volume (`resource`) in its present status.

    `field` is the body's field that names it.
    """

    def __init__(self, resource: str, status: str, allowed_actions: list[str], field: str) -> None:
        super().__init__("create", status, None, allowed_actions, resource)
        self.fields = [FieldIssue(field, self.code, str(self))]

    @staticmethod
    def _reason(word: str, status: str, task_state: str | None, resource: str) -> str:
        del word, task_state
        return f"Cannot create a VM from a {resource} in status {status}"


class NoFreeAddressError(ServiceError):
    """The network has no free address."""

    code = "no_free_address"

    def __init__(self, network: str) -> None:
        super().__init__(f"Network {network} has no free address. Detach an interface from it or use another network.")


class InvalidAddressError(ServiceError):
    """No VM can have an address that the body asks for."""

    code = "invalid_address"

    def __init__(self, fields: Sequence[FieldIssue]) -> None:
        super().__init__("The request asks for addresses that no VM can have; `errors` names them.")
        self.fields = fields


class AddressInUseError(ServiceError):
    """An interface has an address that the body asks for."""

    code = "address_in_use"

    def __init__(self, fields: Sequence[FieldIssue]) -> None:
        super().__init__("The request asks for addresses that are in use; `errors` names them.")
        self.fields = fields


class NoFreeDeviceError(ServiceError):
    """The VM has the highest possible number of these devices, which are volumes or interfaces."""

    code = "no_free_device"

    def __init__(self, limit: int, devices: str) -> None:
        super().__init__(f"A VM has at most {limit} {devices}. Detach one first.")


class TooLateError(ServiceError):
    """The operation cannot be canceled: it has ended or is past its point of no return."""

    code = "too_late"


class NotRetryableError(ServiceError):
    """The operation cannot be retried: it has not failed, its resource must be created anew, or a retry has done it."""

    code = "not_retryable"


class NotAdoptableError(ServiceError):
    """The server cannot be adopted, at least not now."""

    code = "not_adoptable"

    def __init__(self, obstacle: str) -> None:
        super().__init__(f"The server cannot be adopted. {obstacle}")


class CanceledError(ServiceError):
    """The operation was canceled before its next step."""

    code = "canceled"

    def __init__(self, actor: str) -> None:
        super().__init__(f"{actor} canceled the operation.")


class NotBegunError(ServiceError):
    """The operation ended before its first step. There is nothing to undo or to observe."""

    code = "not_begun"


class IllegalStepError(ServiceError):
    """A workflow entered a step that the table does not allow there. This is a bug, never a user's mistake."""

    code = "illegal_step"


class SupersededError(ServiceError):
    """The operation no longer holds its VM: it has ended, or a delete took the VM over."""

    code = "superseded"


def _phrase(word: str, resource: str) -> str:
    """The action on the resource in plain words, such as "take a snapshot of a VM"."""
    # Either the VM refuses "attach-volume" ("attach a volume to a VM") or the volume does ("attach a volume").
    verb = _VERBS.get(word, word) if resource == "VM" else word.partition("-")[0]
    return f"{verb} {'an' if resource[0] in 'aeiou' else 'a'} {resource}"


def unknown_id(field: str, id: object | None) -> FieldIssue:
    """The issue of a field whose id does not exist; `id` is None if the field is absent and there is no default."""
    detail = f"There is no such id: {id}." if id else f"There is no default: set {field}."
    return FieldIssue(field, UnknownReferenceError.code, detail)
