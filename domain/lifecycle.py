"""The life of a VM: statuses, task states, actions, and THE table that decides every transition.

Words are Nova's. The API asks the table before it accepts, the activities before they record; the database's
CHECK constraint, the README's diagram and the tests are derived from it. Pure: no clock, no I/O, no framework.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

from domain.errors import AttachmentInProgressError, IllegalStepError, InvalidTransitionError
from domain.resources import AttachmentStatus, Change, Kind, SnapshotStatus, VolumeStatus


class Status(StrEnum):
    """The stable state of a VM, as clients see it."""

    BUILDING = "BUILDING"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    REBOOTING = "REBOOTING"
    RESIZING = "RESIZING"
    VERIFY_RESIZE = "VERIFY_RESIZE"
    ERROR = "ERROR"
    DELETING = "DELETING"
    DELETED = "DELETED"


class TaskState(StrEnum):
    """What is being done to a VM right now; a VM nothing is done to has none."""

    SCHEDULING = "scheduling"
    NETWORKING = "networking"
    SPAWNING = "spawning"
    POWERING_ON = "powering_on"
    POWERING_OFF = "powering_off"
    REBOOTING = "rebooting"
    REBOOTING_HARD = "rebooting_hard"
    RESIZE_PREP = "resize_prep"
    RESIZE_MIGRATING = "resize_migrating"
    RESIZE_FINISH = "resize_finish"
    RESIZE_CONFIRMING = "resize_confirming"
    RESIZE_REVERTING = "resize_reverting"
    IMAGE_SNAPSHOT = "image_snapshot"
    IMAGE_UPLOADING = "image_uploading"
    RESTORING = "restoring"
    DELETING = "deleting"


class Action(StrEnum):
    """What can be asked; a row of the table each, but for the last."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT_SOFT = "reboot-soft"
    REBOOT_HARD = "reboot-hard"
    RESIZE = "resize"
    CONFIRM_RESIZE = "confirm-resize"
    REVERT_RESIZE = "revert-resize"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    ATTACH_VOLUME = "attach-volume"
    DETACH_VOLUME = "detach-volume"
    ATTACH_INTERFACE = "attach-interface"
    DETACH_INTERFACE = "detach-interface"
    DELETE = "delete"
    DELETE_SNAPSHOT = "delete-snapshot"
    CREATE_VOLUME = "create-volume"
    DELETE_VOLUME = "delete-volume"
    RESET_STATE = "reset-state"  # has no row: it writes down what an admin, or the cloud, has decided already

    @property
    def word(self) -> str:
        """The action as paths, answers and workflow ids say it: both reboots are `reboot`."""
        return "reboot" if self in {Action.REBOOT_SOFT, Action.REBOOT_HARD} else self.value


class OperationStatus(StrEnum):
    """How far an operation is: what was asked, as opposed to the VM it was asked of."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SUPERSEDED = "SUPERSEDED"


OPEN_STATUSES = (OperationStatus.QUEUED, OperationStatus.RUNNING)


class Previous(Enum):
    """The status before the action; for confirm and revert, the one before the resize."""

    PREVIOUS = auto()


class OnFailure(Enum):
    """What a failed action leaves behind."""

    ERROR = auto()
    PREVIOUS = auto()
    PREVIOUS_IF_RUNNING = auto()  # ERROR unless the server is seen to run
    PREVIOUS_IF_UNTOUCHED = auto()  # ERROR unless the server is as it was: no host was found, or it was canceled
    UNDECIDED_IF_UNTOUCHED = auto()  # ERROR unless nothing was done to the server yet: it waits to be decided again


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: who may, what it looks like while it runs, where it ends. Without `steps` no VM is held."""

    sources: frozenset[Status]
    during: Status | Previous
    steps: tuple[TaskState, ...]
    target: Status | Previous
    on_failure: OnFailure
    workflow: str
    signal: str | None = None  # to the workflow that waits for the action; `workflow` is started where it is gone
    preempts: bool = False
    needs_launch: bool = True
    beside_attachments: bool = True  # whether it may begin while something is being attached or detached
    of_vm: bool = True  # whether it ends with its VM: a delete of the VM pre-empts it
    undoable: bool = False  # whether it can be undone until its end, and so be canceled; others until they begin
    changes: tuple[Change, ...] = ()

    def may_be_canceled(self, *, begun: bool) -> bool:
        """Whether an operation that has not ended is before its point of no return."""
        return self.undoable or not (begun or self.preempts)


PREVIOUS = Previous.PREVIOUS
_ON_OR_OFF = frozenset({Status.ACTIVE, Status.SHUTOFF})
_S, _V, _A = SnapshotStatus, VolumeStatus, AttachmentStatus
_NEW = ()
_TIED = (_V.ATTACHING, _V.IN_USE, _V.DETACHING)


_BESIDE = Rule(_ON_OR_OFF, PREVIOUS, (), PREVIOUS, OnFailure.PREVIOUS, workflow="")


def _attachment(workflow: str, *changes: Change, undoable: bool = False) -> Rule:
    return replace(_BESIDE, workflow=workflow, changes=changes, undoable=undoable)


def _of_resource(workflow: str, change: Change, *, undoable: bool = False) -> Rule:
    return replace(_attachment(workflow, change, undoable=undoable), sources=frozenset(), of_vm=False)


TABLE: dict[Action, Rule] = {
    Action.CREATE: Rule(
        sources=frozenset(),
        during=Status.BUILDING,
        steps=(TaskState.SCHEDULING, TaskState.NETWORKING, TaskState.SPAWNING),
        target=Status.ACTIVE,
        on_failure=OnFailure.ERROR,
        workflow="CreateVM",
        needs_launch=False,
        undoable=True,
        changes=(Change(Kind.INTERFACE, _NEW, _A.ATTACHING, _A.ATTACHED, None, intact=_A.ATTACHED),),
    ),
    Action.START: Rule(
        sources=frozenset({Status.SHUTOFF}),
        during=PREVIOUS,
        steps=(TaskState.POWERING_ON,),
        target=Status.ACTIVE,
        on_failure=OnFailure.PREVIOUS,
        workflow="StartVM",
    ),
    Action.STOP: Rule(
        sources=frozenset({Status.ACTIVE, Status.ERROR}),
        during=PREVIOUS,
        steps=(TaskState.POWERING_OFF,),
        target=Status.SHUTOFF,
        on_failure=OnFailure.PREVIOUS,
        workflow="StopVM",
    ),
    Action.REBOOT_SOFT: Rule(
        sources=frozenset({Status.ACTIVE}),
        during=Status.REBOOTING,
        steps=(TaskState.REBOOTING,),
        target=Status.ACTIVE,
        on_failure=OnFailure.PREVIOUS_IF_RUNNING,
        workflow="RebootVM",
    ),
    Action.REBOOT_HARD: Rule(
        sources=frozenset({Status.ACTIVE, Status.SHUTOFF, Status.ERROR}),
        during=Status.REBOOTING,
        steps=(TaskState.REBOOTING_HARD,),
        target=Status.ACTIVE,
        on_failure=OnFailure.PREVIOUS_IF_RUNNING,
        workflow="RebootVM",
    ),
    Action.RESIZE: Rule(
        sources=_ON_OR_OFF,
        during=Status.RESIZING,
        steps=(TaskState.RESIZE_PREP, TaskState.RESIZE_MIGRATING, TaskState.RESIZE_FINISH),
        target=Status.VERIFY_RESIZE,
        on_failure=OnFailure.PREVIOUS_IF_UNTOUCHED,
        workflow="ResizeVM",
        beside_attachments=False,
        undoable=True,
    ),
    Action.CONFIRM_RESIZE: Rule(
        sources=frozenset({Status.VERIFY_RESIZE}),
        during=Status.VERIFY_RESIZE,
        steps=(TaskState.RESIZE_CONFIRMING,),
        target=PREVIOUS,
        on_failure=OnFailure.UNDECIDED_IF_UNTOUCHED,
        workflow="FinishResizeVM",
        signal="confirm",
    ),
    Action.REVERT_RESIZE: Rule(
        sources=frozenset({Status.VERIFY_RESIZE}),
        during=Status.VERIFY_RESIZE,
        steps=(TaskState.RESIZE_REVERTING,),
        target=PREVIOUS,
        on_failure=OnFailure.UNDECIDED_IF_UNTOUCHED,
        workflow="FinishResizeVM",
        signal="revert",
    ),
    Action.SNAPSHOT: Rule(
        sources=_ON_OR_OFF,
        during=PREVIOUS,
        steps=(TaskState.IMAGE_SNAPSHOT, TaskState.IMAGE_UPLOADING),
        target=PREVIOUS,
        on_failure=OnFailure.PREVIOUS,
        workflow="CreateSnapshot",
        beside_attachments=False,
        undoable=True,
        changes=(Change(Kind.SNAPSHOT, _NEW, _S.CREATING, _S.AVAILABLE, _S.ERROR),),
    ),
    Action.RESTORE: Rule(
        sources=_ON_OR_OFF,
        during=PREVIOUS,
        steps=(TaskState.RESTORING,),
        target=PREVIOUS,
        on_failure=OnFailure.ERROR,
        workflow="RestoreVM",
        beside_attachments=False,
        changes=(Change(Kind.SNAPSHOT, (_S.AVAILABLE,), _S.RESTORING, _S.AVAILABLE, _S.AVAILABLE),),
    ),
    Action.ATTACH_VOLUME: _attachment(
        "AttachVolume",
        Change(Kind.VOLUME, (_V.AVAILABLE,), _V.ATTACHING, _V.IN_USE, _V.AVAILABLE),
        Change(Kind.ATTACHMENT, _NEW, _A.ATTACHING, _A.ATTACHED, None),
        undoable=True,
    ),
    Action.DETACH_VOLUME: _attachment(
        "DetachVolume",
        Change(Kind.VOLUME, (_V.IN_USE,), _V.DETACHING, _V.AVAILABLE, _V.IN_USE),
        Change(Kind.ATTACHMENT, (_A.ATTACHED,), _A.DETACHING, None, _A.ATTACHED),
    ),
    Action.ATTACH_INTERFACE: _attachment(
        "AttachInterface", Change(Kind.INTERFACE, _NEW, _A.ATTACHING, _A.ATTACHED, None), undoable=True
    ),
    Action.DETACH_INTERFACE: _attachment(
        "DetachInterface", Change(Kind.INTERFACE, (_A.ATTACHED,), _A.DETACHING, None, _A.ATTACHED)
    ),
    Action.DELETE: Rule(
        sources=frozenset(Status) - {Status.DELETING, Status.DELETED},
        during=Status.DELETING,
        steps=(TaskState.DELETING,),
        target=Status.DELETED,
        on_failure=OnFailure.ERROR,
        workflow="DeleteVM",
        preempts=True,
        needs_launch=False,
        changes=(
            Change(Kind.SNAPSHOT, (_S.CREATING, _S.ERROR), _S.DELETING, _S.DELETED, _S.ERROR),
            Change(Kind.VOLUME, _TIED, _V.DETACHING, _V.AVAILABLE, _V.IN_USE),
            Change(Kind.VOLUME, _TIED, _V.DELETING, _V.DELETED, _V.IN_USE),  # delete_on_termination
            Change(Kind.ATTACHMENT, tuple(_A), _A.DETACHING, None, _A.ATTACHED),
            Change(Kind.INTERFACE, tuple(_A), _A.DETACHING, None, _A.ATTACHED),
        ),
    ),
    Action.DELETE_SNAPSHOT: _of_resource(
        "DeleteSnapshot",
        Change(Kind.SNAPSHOT, (_S.AVAILABLE, _S.ERROR), _S.DELETING, _S.DELETED, _S.ERROR, intact=_S.AVAILABLE),
    ),
    Action.CREATE_VOLUME: _of_resource(
        "CreateVolume", Change(Kind.VOLUME, _NEW, _V.CREATING, _V.AVAILABLE, _V.ERROR), undoable=True
    ),
    Action.DELETE_VOLUME: _of_resource(
        "DeleteVolume",
        Change(Kind.VOLUME, (_V.AVAILABLE, _V.ERROR), _V.DELETING, _V.DELETED, _V.ERROR, intact=_V.AVAILABLE),
    ),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a VM shows from the moment an action is accepted."""

    status: Status
    task_state: TaskState | None


def claimed(action: Action, status: Status) -> Claim:
    """What a VM in `status` shows once `action` has been accepted."""
    rule = TABLE[action]
    return Claim(_status(rule.during, status), rule.steps[0] if rule.steps else None)


def is_allowed(
    action: Action, status: Status, task_state: TaskState | None, *, launched: bool, attaching: bool = False
) -> bool:
    """Whether the table lets `action` begin on a VM in this state."""
    rule = TABLE[action]
    idle = (task_state is None or rule.preempts) and (rule.beside_attachments or not attaching)
    return status in rule.sources and idle and (launched or not rule.needs_launch)


def allowed_actions(
    status: Status, task_state: TaskState | None, *, launched: bool, attaching: bool = False
) -> list[str]:
    """The words of every action that may begin now, in the table's order."""
    may = (one.word for one in TABLE if is_allowed(one, status, task_state, launched=launched, attaching=attaching))
    return list(dict.fromkeys(may))


def begin(
    action: Action, status: Status, task_state: TaskState | None, *, launched: bool, attaching: bool = False
) -> Claim:
    """The state that accepting `action` puts a VM in.

    InvalidTransitionError where the table refuses, AttachmentInProgressError where it only has to wait for that.
    """
    if is_allowed(action, status, task_state, launched=launched, attaching=attaching):
        return claimed(action, status)
    waits = is_allowed(action, status, task_state, launched=launched)
    refusal = AttachmentInProgressError if waits else InvalidTransitionError
    allowed = allowed_actions(status, task_state, launched=launched, attaching=attaching)
    raise refusal(action.word, status, task_state, allowed)


def may_enter_from(action: Action, step: TaskState) -> tuple[TaskState, ...]:
    """The task states from which `step` may be entered: itself (a retry) and the one before it."""
    steps = TABLE[action].steps
    if step not in steps:
        raise IllegalStepError(f"{action} has no step {step}")
    at = steps.index(step)
    return steps[max(at - 1, 0) : at + 1]


def progress(action: Action, step: TaskState) -> int:
    """How far an action is when it enters `step`, in percent of its steps."""
    steps = TABLE[action].steps
    return 100 * steps.index(step) // len(steps)


def finish(action: Action, task_state: TaskState | None, previous: Status) -> Status:
    """The status an action ends in; IllegalStepError before its last step was entered."""
    rule = TABLE[action]
    if rule.steps and task_state is not rule.steps[-1]:
        raise IllegalStepError(f"{action} cannot finish in {task_state}")
    return _status(rule.target, previous)


def fail(action: Action, previous: Status, *, intact: bool, begun: bool = True) -> Status:
    """The status a failed action leaves; where its first step has not `begun`, the VM is as it was before.

    `intact` says, of a reboot, that the server is seen to run; of a resize, that it is as it was, since no host was
    found for it or somebody canceled in time; of a confirm or revert, that it was canceled in time.
    """
    rule = TABLE[action]
    if not begun and rule.sources and not rule.preempts:
        return _status(rule.during, previous) if rule.signal else previous
    match rule.on_failure:
        case OnFailure.PREVIOUS:
            return previous
        case OnFailure.PREVIOUS_IF_UNTOUCHED if intact:
            return previous
        case OnFailure.UNDECIDED_IF_UNTOUCHED if intact:
            return _status(rule.during, previous)
        case OnFailure.PREVIOUS_IF_RUNNING if intact:
            # A HARD reboot may have powered on a server that was off before.
            return Status.ACTIVE if previous is Status.SHUTOFF else previous
        case _:
            return Status.ERROR


def legal_states() -> frozenset[tuple[Status, TaskState | None]]:
    """Every pair of status and task state that a VM can be in."""
    targets = {rule.target for rule in TABLE.values() if isinstance(rule.target, Status)} | {Status.ERROR}
    return frozenset(_running_states()) | {(status, None) for status in targets}


def _running_states() -> Iterator[tuple[Status, TaskState]]:
    for rule in TABLE.values():
        statuses = rule.sources if isinstance(rule.during, Previous) else {rule.during}
        yield from ((status, step) for status in statuses for step in rule.steps)


def _status(of: Status | Previous, previous: Status) -> Status:
    return previous if isinstance(of, Previous) else of
