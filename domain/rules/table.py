"""THE table: one row for each action on a VM or on a resource of one. It decides every transition."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from domain.rules.resources import AttachmentStatus, Change, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status, TaskState


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
