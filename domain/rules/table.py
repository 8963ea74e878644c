"""The lifecycle table: one row for each action on a VM or on a resource of a VM. It decides every transition.

The table also drives running workflows, which read it again at every replay. `sources` decides which signals a ResizeVM
accepts; `steps[-1]` and `on_failure` give the status that a workflow shows at its end. So a changed row also changes
workflows that are open during an upgrade: run tests/replay. Replay runs no activities, so it does not check the fence:
a workflow from before a new step enters the next step directly, and `lifecycle.may_enter_from` must allow that.

A new pair of status and step needs a migration of the CHECK constraint of `vms`. The tables in docs/states.md are
generated: run `python -m domain.rules.diagram`.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

from domain.rules.resources import BEFORE, AttachmentStatus, Change, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status, TaskState


class Previous(Enum):
    """The status before the action; for confirm and revert, the status before the resize."""

    PREVIOUS = auto()


PREVIOUS = Previous.PREVIOUS


class Residue(StrEnum):
    """What a failed operation has left in the cloud, as its workflow observed it.

    The values are kept in workflow histories: add new ones, never rename one.
    """

    NOT_BEGUN = "not_begun"  # no step ran: nothing changed
    UNCHANGED = "unchanged"  # a resize, confirm or revert left the server as it was
    RUNNING = "running"  # the server runs
    STILL_THERE = "still_there"  # the cloud still has what should be gone: an image, a volume, ports of a failed create
    APPLIED = "applied"  # the requested change is in place, although the operation failed
    UNKNOWN = "unknown"  # none of the above is known


@dataclass(frozen=True, slots=True)
class Failure:
    """The status that a failed action leaves a VM in. It depends on the residue; `otherwise` covers all other cases."""

    otherwise: Status | Previous
    if_not_begun: Status | Previous = PREVIOUS
    if_unchanged: Status | Previous | None = None
    if_running: Status | Previous | None = None

    def status(self, residue: Residue) -> Status | Previous:
        """Return the table's entry for the residue."""
        match residue:
            case Residue.NOT_BEGUN:
                return self.if_not_begun
            case Residue.UNCHANGED:
                return self.if_unchanged or self.otherwise
            case Residue.RUNNING:
                return self.if_running or self.otherwise
            case _:
                return self.otherwise


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table. A rule without `steps` does not hold the VM: it runs beside other operations."""

    sources: frozenset[Status]  # the action may begin in these
    during: Status | Previous
    steps: tuple[TaskState, ...]
    target: Status | Previous
    on_failure: Failure
    workflow: str
    signal: str | None = None  # to the waiting ResizeVM; if that is gone, `workflow` is started instead
    preempts: bool = False  # it supersedes the operation that holds the VM
    needs_launch: bool = True  # only for a VM whose create has succeeded
    beside_attachments: bool = True  # it may begin while a volume or interface is being attached or detached
    of_vm: bool = True  # a delete of the VM supersedes it
    # Its steps can be undone, so it can be canceled until it ends. Without this, it can be canceled only before it
    # begins, and never if it `preempts`.
    undoable: bool = False
    changes: tuple[Change, ...] = ()

    @property
    def is_on_vm(self) -> bool:
        """Whether the action begins on a VM; the others begin on a resource alone, even if a VM has it."""
        return bool(self.sources or self.steps)

    def may_be_canceled(self, *, begun: bool) -> bool:
        """Whether an open operation can still be canceled."""
        return self.undoable or not (begun or self.preempts)


_ON_OR_OFF = frozenset({Status.ACTIVE, Status.SHUTOFF})
_S, _V, _A = SnapshotStatus, VolumeStatus, AttachmentStatus
_NEW = ()  # no sources: the action creates the resource
_ATTACHED = (_V.ATTACHING, _V.IN_USE, _V.DETACHING, _V.EXTENDING)

_LEAVES_PREVIOUS = Failure(PREVIOUS)
# VERIFY_RESIZE by name: for a confirm or revert, PREVIOUS is the status before the resize.
_STAYS_UNDECIDED = Failure(Status.ERROR, if_not_begun=Status.VERIFY_RESIZE, if_unchanged=Status.VERIFY_RESIZE)
# The rule of attaches and detaches: they run beside other operations and leave the VM as it is.
_BESIDE = Rule(_ON_OR_OFF, PREVIOUS, (), PREVIOUS, _LEAVES_PREVIOUS, workflow="")


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
        on_failure=Failure(Status.ERROR, if_not_begun=Status.ERROR),
        workflow="CreateVM",
        needs_launch=False,
        undoable=True,
        changes=(
            Change(Kind.INTERFACE, _NEW, _A.ATTACHING, _A.ATTACHED, None, if_still_there=_A.ATTACHED),
            # of the volume that it boots from
            Change(Kind.VOLUME, (_V.AVAILABLE,), _V.ATTACHING, _V.IN_USE, _V.AVAILABLE, if_still_there=_V.IN_USE),
            Change(Kind.ATTACHMENT, _NEW, _A.ATTACHING, _A.ATTACHED, None, if_still_there=_A.ATTACHED),
        ),
    ),
    Action.START: Rule(
        sources=frozenset({Status.SHUTOFF}),
        during=PREVIOUS,
        steps=(TaskState.POWERING_ON,),
        target=Status.ACTIVE,
        on_failure=_LEAVES_PREVIOUS,
        workflow="StartVM",
    ),
    Action.STOP: Rule(
        sources=frozenset({Status.ACTIVE, Status.ERROR}),
        during=PREVIOUS,
        steps=(TaskState.POWERING_OFF,),
        target=Status.SHUTOFF,
        on_failure=_LEAVES_PREVIOUS,
        workflow="StopVM",
    ),
    Action.REBOOT_SOFT: Rule(
        sources=frozenset({Status.ACTIVE}),
        during=Status.REBOOTING,
        steps=(TaskState.REBOOTING,),
        target=Status.ACTIVE,
        on_failure=Failure(Status.ERROR, if_running=PREVIOUS),
        workflow="RebootVM",
    ),
    Action.REBOOT_HARD: Rule(
        sources=frozenset({Status.ACTIVE, Status.SHUTOFF, Status.ERROR}),
        during=Status.REBOOTING,
        steps=(TaskState.REBOOTING_HARD,),
        target=Status.ACTIVE,
        on_failure=Failure(Status.ERROR, if_running=PREVIOUS),
        workflow="RebootVM",
    ),
    Action.RESIZE: Rule(
        sources=_ON_OR_OFF,
        during=Status.RESIZING,
        steps=(TaskState.RESIZE_PREP, TaskState.RESIZE_MIGRATING, TaskState.RESIZE_FINISH),
        target=Status.VERIFY_RESIZE,
        on_failure=Failure(Status.ERROR, if_unchanged=PREVIOUS),
        workflow="ResizeVM",
        beside_attachments=False,
        undoable=True,
    ),
    Action.CONFIRM_RESIZE: Rule(
        sources=frozenset({Status.VERIFY_RESIZE}),
        during=Status.VERIFY_RESIZE,
        steps=(TaskState.RESIZE_CONFIRMING,),
        target=PREVIOUS,
        on_failure=_STAYS_UNDECIDED,
        workflow="FinishResizeVM",
        signal="confirm",
    ),
    Action.REVERT_RESIZE: Rule(
        sources=frozenset({Status.VERIFY_RESIZE}),
        during=Status.VERIFY_RESIZE,
        steps=(TaskState.RESIZE_REVERTING,),
        target=PREVIOUS,
        on_failure=_STAYS_UNDECIDED,
        workflow="FinishResizeVM",
        signal="revert",
    ),
    Action.SNAPSHOT: Rule(
        sources=_ON_OR_OFF,
        during=PREVIOUS,
        steps=(TaskState.IMAGE_SNAPSHOT, TaskState.IMAGE_UPLOADING),
        target=PREVIOUS,
        on_failure=_LEAVES_PREVIOUS,
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
        on_failure=Failure(Status.ERROR),
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
        on_failure=Failure(Status.ERROR, if_not_begun=Status.ERROR),
        workflow="DeleteVM",
        preempts=True,
        needs_launch=False,
        changes=(
            Change(Kind.SNAPSHOT, (_S.CREATING, _S.ERROR), _S.DELETING, _S.DELETED, _S.ERROR),
            Change(Kind.VOLUME, _ATTACHED, _V.DETACHING, _V.AVAILABLE, _V.IN_USE),
            Change(Kind.VOLUME, _ATTACHED, _V.DELETING, _V.DELETED, _V.IN_USE),  # delete_on_termination
            Change(Kind.ATTACHMENT, tuple(_A), _A.DETACHING, None, _A.ATTACHED),
            Change(Kind.INTERFACE, tuple(_A), _A.DETACHING, None, _A.ATTACHED),
        ),
    ),
    Action.DELETE_SNAPSHOT: _of_resource(
        "DeleteSnapshot",
        Change(Kind.SNAPSHOT, (_S.AVAILABLE, _S.ERROR), _S.DELETING, _S.DELETED, _S.ERROR, if_still_there=_S.AVAILABLE),
    ),
    Action.CREATE_VOLUME: _of_resource(
        "CreateVolume", Change(Kind.VOLUME, _NEW, _V.CREATING, _V.AVAILABLE, _V.ERROR), undoable=True
    ),
    Action.DELETE_VOLUME: _of_resource(
        "DeleteVolume",
        Change(Kind.VOLUME, (_V.AVAILABLE, _V.ERROR), _V.DELETING, _V.DELETED, _V.ERROR, if_still_there=_V.AVAILABLE),
    ),
    # A delete of the VM that has the volume supersedes it.
    Action.EXTEND_VOLUME: replace(
        _of_resource(
            "ExtendVolume",
            Change(Kind.VOLUME, (_V.AVAILABLE, _V.IN_USE), _V.EXTENDING, BEFORE, _V.ERROR, if_still_there=BEFORE),
        ),
        of_vm=True,
    ),
}
