"""The life of a VM: statuses, task states, actions, and THE table that decides every transition.

Words are Nova's. The API asks the table before it accepts, the activities before they record; the database's
CHECK constraint, the README's diagram and the tests are derived from it. Pure: no clock, no I/O, no framework.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from domain.rules.errors import AttachmentInProgressError, IllegalStepError, InvalidTransitionError
from domain.rules.resources import Change, Kind, ResourceStatus
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import TABLE, OnFailure, Previous


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


def change_of(action: Action, kind: Kind) -> Change:
    """What the action does to a resource of the kind; it has one such change."""
    (change,) = (change for change in TABLE[action].changes if change.kind is kind)
    return change


def begin_change(action: Action, kind: Kind, status: ResourceStatus) -> ResourceStatus:
    """The status that accepting `action` puts a resource in; InvalidTransitionError where the table refuses."""
    change = change_of(action, kind)
    if status in change.sources:
        return change.during
    others = ((one.word, change) for one, rule in TABLE.items() if not rule.preempts for change in rule.changes)
    allowed = [word for word, change in others if change.kind is kind and status in change.sources]
    raise InvalidTransitionError(action.word, status, None, allowed, resource=kind)
