"""The messages that the API, workflows and activities exchange through Temporal: activity names and payloads.

Payloads are frozen dataclasses of identifiers and plain values; times are in seconds. Temporal keeps them in workflow
histories, so they hold no secret. Running workflows and workers of the previous version read them, so fields are only
added, with a default, and never renamed.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from uuid import UUID

from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import Residue


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
    EXTEND_VOLUME = "extend_volume"
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
    WAIT_FOR_EXTENSION = "wait_for_extension"
    IS_EXTENDED = "is_extended"
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


WAITS: Final = {
    *(Activity.WAIT_FOR_SERVER, Activity.WAIT_FOR_VOLUME, Activity.WAIT_FOR_IMAGE, Activity.WAIT_FOR_EXTENSION),
    *(Activity.SETTLE_SERVER, Activity.SETTLE_VOLUME),
}
"""The activities that only wait. They have a task queue of their own (see `waits_queue`)."""

# The task state that an activity records before it does anything, if it is a step of the lifecycle table. Workflows
# show it, also while they replay. Activities pass it to the fence (`lifecycle.may_enter_from`).
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


@dataclass(frozen=True)
class OperationInput:
    """The operation that a workflow carries out. Workflows and fenced activities get all of it.

    `previous_status` is "previous" in the lifecycle table; an operation that does not hold a VM has none. `vm_id` is
    None for an operation on a volume alone. `resource_id` is the VM, snapshot, volume or interface it acts on.
    `vm_name` and `about` are shown to people. So is `actor`, a username, which only older versions set. With an
    `interruption`, an earlier workflow closed too early: this one cleans up and records the failure with that code.
    `combines` lets a step do the steps after it, too, and a wait record the success. The activity's result says whether
    it has. A worker of an older version does not know the field, and gives no result.
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
    combines: bool = False

    @property
    def vm(self) -> UUID:
        """The id of its VM, for an operation that has one."""
        assert self.vm_id is not None  # noqa: S101 - only volumes are made and deleted without
        return self.vm_id

    @property
    def resource(self) -> UUID:
        """The id of the snapshot, volume or interface it acts on."""
        assert self.resource_id is not None  # noqa: S101 - only operations on VMs by the first version have none
        return self.resource_id

    @property
    def previous(self) -> Status:
        """The status before it, for an operation that holds its VM."""
        assert self.previous_status is not None  # noqa: S101 - the API sets it whenever it claims a VM
        return self.previous_status


@dataclass(frozen=True)
class WaitForServerInput:
    """Wait until the operation's server has the status.

    With `records`, the wait also does what is left of the operation and records its success, and the result of the
    activity says that it has. A worker of an older version does not know the field, and gives no result.
    """

    operation: OperationInput
    status: ServerStatus
    records: bool = False


@dataclass(frozen=True)
class WaitForVolumeInput:
    """Wait until the operation's volume has the state, and record the success (see `WaitForServerInput`)."""

    operation: OperationInput
    state: VolumeState
    records: bool = False


@dataclass(frozen=True)
class LeftoversResult:
    """What the cloud still has of a VM whose delete failed.

    `ports` still exist, `attached` volumes are still attached, `free` volumes exist but are no longer attached.
    `flavor_id` is the flavor of its server, if there still is one.
    """

    ports: tuple[UUID, ...] = ()
    attached: tuple[UUID, ...] = ()
    free: tuple[UUID, ...] = ()
    flavor_id: UUID | None = None


@dataclass(frozen=True)
class FailOperationInput:
    """Why an operation failed, and what it has left in the cloud. `of` creates it, `observed_residue` reads it.

    `intact`, `applied` and `begun` say the same as `residue` to workers of older versions, which do not know `residue`.
    They can be removed, with their tests, once no such worker runs and none of its workflows is open or can be reset.
    `remains` is what the cloud still has after the delete of a VM.
    """

    operation: OperationInput
    code: str
    message: str
    canceled: bool = False
    intact: bool = False
    applied: bool = False
    remains: LeftoversResult | None = None
    begun: bool = True
    residue: Residue | None = None

    @classmethod
    def of(  # noqa: PLR0913 - the fields that callers should set
        cls,
        operation: OperationInput,
        code: str,
        message: str,
        residue: Residue,
        *,
        canceled: bool = False,
        leftovers: LeftoversResult | None = None,
    ) -> Self:
        """Make a message that workers of older versions understand too."""
        return cls(
            operation,
            code,
            message,
            canceled,
            intact=residue in {Residue.UNCHANGED, Residue.RUNNING, Residue.STILL_THERE},
            applied=residue is Residue.APPLIED,
            remains=leftovers,
            begun=residue is not Residue.NOT_BEGUN,
            residue=residue,
        )

    @property
    def observed_residue(self) -> Residue:
        """The residue. A message of an older version has none: its flags are translated."""
        if self.residue is not None:
            return self.residue
        if not self.begun:
            return Residue.NOT_BEGUN
        if self.applied:
            return Residue.APPLIED
        if self.intact:
            return _MEANING_OF_INTACT.get(self.operation.action, Residue.STILL_THERE)
        return Residue.UNKNOWN


# The meaning of `intact` by action. For other actions it meant that the resource was still there, or had no effect.
_MEANING_OF_INTACT: Final = {
    Action.REBOOT_SOFT: Residue.RUNNING,
    Action.REBOOT_HARD: Residue.RUNNING,
    Action.RESIZE: Residue.UNCHANGED,
    Action.CONFIRM_RESIZE: Residue.UNCHANGED,
    Action.REVERT_RESIZE: Residue.UNCHANGED,
}


@dataclass(frozen=True)
class WorkflowsInput:
    """The ids of workflows that a delete has superseded."""

    operation: OperationInput
    workflow_ids: tuple[str, ...]


@dataclass(frozen=True)
class CheckFlavorInput:
    """Check that the server has the flavor that the operation gives it or, with `previous`, the flavor before that."""

    operation: OperationInput
    previous: bool = False


@dataclass(frozen=True)
class FailedAttemptInput:
    """A failed attempt of an activity that will be retried. Signaled to its workflow, to show it to people."""

    activity: str
    attempt: int
    error: str


@dataclass(frozen=True)
class StateResult:
    """The answer to the query `state`: the VM's status and task state as its workflow knows them."""

    status: Status | None
    task_state: TaskState | None


def waits_queue(task_queue: str) -> str:
    """Return the task queue for activities that only wait. On a queue of their own they do not block the others."""
    return f"{task_queue}-waits"


def own_workflow_id(action: Action, resource_id: UUID, operation_id: UUID, epoch: int = 0) -> str:
    """Return the id of the workflow that is started for an operation on a VM or another resource."""
    return f"{action.word}-{resource_id}-{operation_id}" + (f"-{epoch}" if epoch else "")
