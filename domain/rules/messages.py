"""What the API, the workflows and the activities say to each other through Temporal: names and payloads.

Payloads are frozen dataclasses of identifiers and plain values, in seconds where they hold time. They are kept in
workflow histories, so they carry no secret, and fields are only ever added, with a default.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.states import Action, Status, TaskState


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
    IS_RESTORED = "is_restored"
    CREATE_SERVER_IMAGE = "create_server_image"
    UPLOAD_IMAGE = "upload_image"
    DELETE_IMAGE = "delete_image"
    REBUILD_SERVER = "rebuild_server"
    CREATE_VOLUME = "create_volume"
    DELETE_VOLUME = "delete_volume"
    ATTACH_VOLUME = "attach_volume"
    DETACH_VOLUME = "detach_volume"
    CREATE_INTERFACE = "create_interface"
    DELETE_INTERFACE = "delete_interface"
    PREEMPT_OPERATIONS = "preempt_operations"
    SETTLE_REMAINS = "settle_remains"
    LIST_OPEN_WORKFLOWS = "list_open_workflows"
    TERMINATE_WORKFLOWS = "terminate_workflows"
    DELETE_SERVER = "delete_server"
    RELEASE_RESOURCES = "release_resources"
    WAIT_FOR_SERVER = "wait_for_server"
    WAIT_FOR_IMAGE = "wait_for_image"
    WAIT_FOR_VOLUME = "wait_for_volume"
    SETTLE_SERVER = "settle_server"
    SETTLE_VOLUME = "settle_volume"
    SETTLE_INTERFACE = "settle_interface"
    SETTLE_IMAGE = "settle_image"
    UNDO_CREATE = "undo_create"
    UNDO_RESIZE = "undo_resize"
    UNDO_IMAGE = "undo_image"
    UNDO_VOLUME = "undo_volume"
    UNDO_ATTACH = "undo_attach"
    UNDO_INTERFACE = "undo_interface"
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
    Activity.CREATE_SERVER_IMAGE: TaskState.IMAGE_SNAPSHOT,
    Activity.UPLOAD_IMAGE: TaskState.IMAGE_UPLOADING,
    Activity.REBUILD_SERVER: TaskState.RESTORING,
    Activity.PREEMPT_OPERATIONS: TaskState.DELETING,
    Activity.DELETE_SERVER: TaskState.DELETING,
    Activity.RELEASE_RESOURCES: TaskState.DELETING,
}


"""The task state that an activity records before it does anything, where it is a step of the lifecycle table."""


@dataclass(frozen=True)
class OperationInput:
    """The operation a workflow carries out; every fenced activity gets it whole.

    `previous_status` is what "previous" means in the lifecycle table; without it the operation holds no VM, and without
    `vm_id` it is about none. `vm_name`, `actor` and `about` tell people which VM it is, who asked, and what else there
    is to know. `resource_id` is what it is about: the VM, or a snapshot, volume or interface. With an `interruption`
    its workflow closed too early, and all that is left to do is to end it badly, with that code.
    """

    operation_id: UUID
    vm_id: UUID | None
    action: Action
    epoch: int = 0
    previous_status: Status | None = None
    vm_name: str = ""
    actor: str = ""
    about: str = ""
    resource_id: UUID | None = None
    interruption: str = ""

    @property
    def vm(self) -> UUID:
        """The VM it is about, of an operation that has one."""
        assert self.vm_id is not None  # noqa: S101 - only volumes are made and deleted without
        return self.vm_id

    @property
    def resource(self) -> UUID:
        """The snapshot, volume or interface it is about."""
        assert self.resource_id is not None  # noqa: S101 - only operations of before there were any have none
        return self.resource_id


@dataclass(frozen=True)
class WaitForServerInput:
    """Wait until the backend shows the operation's server in `status`."""

    operation: OperationInput
    status: ServerStatus


@dataclass(frozen=True)
class WaitForVolumeInput:
    """Wait until the backend shows the operation's volume in `state`."""

    operation: OperationInput
    state: VolumeState


@dataclass(frozen=True)
class RemainsResult:
    """What the cloud still has of a VM whose delete failed: ports and attached volumes, and those that are free now.

    `flavor_id` is the flavor that the server has, where it has one.
    """

    ports: tuple[UUID, ...] = ()
    attached: tuple[UUID, ...] = ()
    free: tuple[UUID, ...] = ()
    flavor_id: UUID | None = None


@dataclass(frozen=True)
class FailOperationInput:
    """Why an operation ended without success; `intact` and `begun` are what `lifecycle.fail` makes of them.

    `applied` says that what it was to bring about has happened, though it did not end well; `remains`, of a delete,
    what the cloud still has.
    """

    operation: OperationInput
    code: str
    message: str
    canceled: bool = False
    intact: bool = False
    applied: bool = False
    remains: RemainsResult | None = None
    begun: bool = True


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
    """Seconds until a resize confirms itself; None where it never does. `is_over`: nobody can decide it any more."""

    seconds: float | None
    is_over: bool = False


@dataclass(frozen=True)
class ClaimConfirmResult:
    """The operation that confirms; None where somebody was faster. `is_over`: nobody can decide the resize any more."""

    confirm: OperationInput | None
    is_over: bool = False


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


def own_workflow_id(action: Action, of: UUID, operation_id: UUID, epoch: int = 0) -> str:
    """The id of a workflow that is started for one operation; `of` a VM, or of what else it is about."""
    return f"{action.word}-{of}-{operation_id}" + (f"-{epoch}" if epoch else "")
