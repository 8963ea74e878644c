"""What the API, the workflows and the activities say to each other through Temporal: names and payloads.

Payloads are frozen dataclasses of identifiers and plain values, in seconds where they hold time. They are kept in
workflow histories, so they carry no secret, and fields are only ever added, with a default.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from domain.lifecycle import Action, Status, TaskState


class Activity(StrEnum):
    """The name of every activity."""

    SCHEDULE_SERVER = "schedule_server"
    CREATE_PORTS = "create_ports"
    SPAWN_SERVER = "spawn_server"
    START_SERVER = "start_server"
    STOP_SERVER = "stop_server"
    REBOOT_SERVER = "reboot_server"
    REBOOT_SERVER_HARD = "reboot_server_hard"
    PREPARE_RESIZE = "prepare_resize"
    RESIZE_SERVER = "resize_server"
    FINISH_RESIZE = "finish_resize"
    CONFIRM_RESIZE = "confirm_resize"
    REVERT_RESIZE = "revert_resize"
    CHECK_FLAVOR = "check_flavor"
    PREEMPT_OPERATIONS = "preempt_operations"
    LIST_OPEN_WORKFLOWS = "list_open_workflows"
    TERMINATE_WORKFLOWS = "terminate_workflows"
    DELETE_SERVER = "delete_server"
    WAIT_FOR_SERVER = "wait_for_server"
    SETTLE_SERVER = "settle_server"
    UNDO_CREATE = "undo_create"
    UNDO_RESIZE = "undo_resize"
    READ_CONFIRM_WINDOW = "read_confirm_window"
    CLAIM_CONFIRM = "claim_confirm"
    DROP_CONFIRM_WINDOW = "drop_confirm_window"
    FINISH_OPERATION = "finish_operation"
    FAIL_OPERATION = "fail_operation"


ENTERS: Final = {
    Activity.SCHEDULE_SERVER: TaskState.SCHEDULING,
    Activity.CREATE_PORTS: TaskState.NETWORKING,
    Activity.SPAWN_SERVER: TaskState.SPAWNING,
    Activity.START_SERVER: TaskState.POWERING_ON,
    Activity.STOP_SERVER: TaskState.POWERING_OFF,
    Activity.REBOOT_SERVER: TaskState.REBOOTING,
    Activity.REBOOT_SERVER_HARD: TaskState.REBOOTING_HARD,
    Activity.PREPARE_RESIZE: TaskState.RESIZE_PREP,
    Activity.RESIZE_SERVER: TaskState.RESIZE_MIGRATING,
    Activity.FINISH_RESIZE: TaskState.RESIZE_FINISH,
    Activity.CONFIRM_RESIZE: TaskState.RESIZE_CONFIRMING,
    Activity.REVERT_RESIZE: TaskState.RESIZE_REVERTING,
    Activity.PREEMPT_OPERATIONS: TaskState.DELETING,
    Activity.DELETE_SERVER: TaskState.DELETING,
}
"""The task state that an activity records before it does anything, where it is a step of the lifecycle table."""


class ServerStatus(StrEnum):
    """What a backend says of a server, in Nova's words; GONE is a server it does not have."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    REBOOT = "REBOOT"
    RESIZE = "RESIZE"
    VERIFY_RESIZE = "VERIFY_RESIZE"
    REVERT_RESIZE = "REVERT_RESIZE"
    ERROR = "ERROR"
    DELETING = "DELETING"
    GONE = "GONE"


@dataclass(frozen=True)
class OperationInput:
    """The operation a workflow carries out; every fenced activity gets it whole.

    `previous_status` is what "previous" means in the lifecycle table; the last three tell people which VM it is, who
    asked, and from what to what.
    """

    operation_id: UUID
    vm_id: UUID
    action: Action
    epoch: int = 0
    previous_status: Status | None = None
    vm_name: str = ""
    actor: str = ""
    about: str = ""


@dataclass(frozen=True)
class WaitForServerInput:
    """Wait until the backend shows the operation's server in `status`."""

    operation: OperationInput
    status: ServerStatus


@dataclass(frozen=True)
class FailOperationInput:
    """Why an operation ended without success; `intact` is what `lifecycle.fail` makes of it."""

    operation: OperationInput
    code: str
    message: str
    canceled: bool = False
    intact: bool = False


@dataclass(frozen=True)
class WorkflowsInput:
    """Workflows that a delete has pre-empted, by id."""

    operation: OperationInput
    workflow_ids: tuple[str, ...]


@dataclass(frozen=True)
class CheckFlavorInput:
    """See that the server has the flavor that `operation` is to bring about, or the `previous` one."""

    operation: OperationInput
    previous: bool = False


@dataclass(frozen=True)
class ConfirmWindowResult:
    """Seconds until a resize confirms itself; None where it never does."""

    seconds: float | None


@dataclass(frozen=True)
class ClaimConfirmResult:
    """The operation that confirms; None where the VM is no longer the resize's, so that there is nothing to confirm."""

    confirm: OperationInput | None


@dataclass(frozen=True)
class FailedAttemptInput:
    """An activity's attempt that failed and will be followed by another; signalled to its workflow, for people."""

    activity: str
    attempt: int
    error: str


@dataclass(frozen=True)
class StateResult:
    """The answer to the query `state`: what the VM shows as far as its workflow knows."""

    status: Status | None
    task_state: TaskState | None


def waits_queue(task_queue: str) -> str:
    """The task queue of the activities that only wait, so that many of them starve nobody else."""
    return f"{task_queue}-waits"
