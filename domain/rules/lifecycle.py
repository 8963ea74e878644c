"""Functions on the lifecycle table: what may begin, which step may follow, in which status an action ends or fails.

The API calls them before it accepts an operation, and the activities before they record a step or an end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from domain.rules.errors import AttachmentInProgressError, IllegalStepError, InvalidTransitionError
from domain.rules.resources import Change, Kind, ResourceStatus
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import TABLE, Previous, Residue


@dataclass(frozen=True, slots=True)
class Claim:
    """The state of a VM once an action has been accepted."""

    status: Status
    task_state: TaskState | None


def claimed(action: Action, status: Status) -> Claim:
    """Return the state of a VM in `status` once `action` has been accepted."""
    rule = TABLE[action]
    return Claim(_status(rule.during, status), rule.steps[0] if rule.steps else None)


def is_allowed(
    action: Action, status: Status, task_state: TaskState | None, *, launched: bool, attaching: bool = False
) -> bool:
    """Whether `action` may begin on a VM in this state."""
    rule = TABLE[action]
    idle = (task_state is None or rule.preempts) and (rule.beside_attachments or not attaching)
    return status in rule.sources and idle and (launched or not rule.needs_launch)


def allowed_actions(
    status: Status, task_state: TaskState | None, *, launched: bool, attaching: bool = False
) -> list[str]:
    """Return the words of all actions that may begin now, in the table's order."""
    state = {"launched": launched, "attaching": attaching}
    words = (action.word for action in TABLE if is_allowed(action, status, task_state, **state))
    return list(dict.fromkeys(words))  # both reboots have one word


def accept(
    action: Action, status: Status, task_state: TaskState | None, *, launched: bool, attaching: bool = False
) -> Claim:
    """Return the state that accepting `action` puts a VM in.

    Raises InvalidTransitionError if the table refuses the action, or AttachmentInProgressError if it does so only
    because a volume or interface is being attached or detached.
    """
    if is_allowed(action, status, task_state, launched=launched, attaching=attaching):
        return claimed(action, status)
    only_has_to_wait = is_allowed(action, status, task_state, launched=launched)
    error = AttachmentInProgressError if only_has_to_wait else InvalidTransitionError
    allowed = allowed_actions(status, task_state, launched=launched, attaching=attaching)
    raise error(action.word, status, task_state, allowed)


def may_enter_from(action: Action, step: TaskState) -> tuple[TaskState, ...]:
    """Return the task states from which `step` may be entered: the one before it, and itself for a retry."""
    steps = TABLE[action].steps
    if step not in steps:
        raise IllegalStepError(f"{action} has no step {step}")
    index = steps.index(step)
    return steps[max(index - 1, 0) : index + 1]


def progress(action: Action, step: TaskState) -> int:
    """Return the progress of an action that enters `step`, in percent of its steps."""
    steps = TABLE[action].steps
    return 100 * steps.index(step) // len(steps)


def finish(action: Action, task_state: TaskState | None, previous: Status) -> Status:
    """Return the status that a successful action ends in. IllegalStepError if its last step was not entered."""
    rule = TABLE[action]
    if rule.steps and task_state is not rule.steps[-1]:
        raise IllegalStepError(f"{action} cannot finish in {task_state}")
    return _status(rule.target, previous)


def fail(action: Action, previous: Status, residue: Residue) -> Status:
    """Return the status that a failed action leaves a VM in, given the residue in the cloud."""
    on_failure = TABLE[action].on_failure
    status = _status(on_failure.status(residue), previous)
    if residue is Residue.RUNNING and on_failure.if_running and status is Status.SHUTOFF:
        return Status.ACTIVE  # a failed HARD reboot may have powered on a server that was off
    return status


def legal_states() -> frozenset[tuple[Status, TaskState | None]]:
    """Return every pair of status and task state that a VM can be in.

    The CHECK constraint `state` of the table `vms` lists the same pairs, so a new pair needs a migration.
    """
    targets = {rule.target for rule in TABLE.values() if isinstance(rule.target, Status)} | {Status.ERROR}
    return frozenset(_running_states()) | {(status, None) for status in targets}


def _running_states() -> Iterator[tuple[Status, TaskState]]:
    for rule in TABLE.values():
        statuses = rule.sources if isinstance(rule.during, Previous) else {rule.during}
        yield from ((status, step) for status in statuses for step in rule.steps)


def _status(entry: Status | Previous, previous: Status) -> Status:
    return previous if isinstance(entry, Previous) else entry


def change_of(action: Action, kind: Kind) -> Change:
    """Return the only change that the action makes to resources of the kind."""
    (change,) = (change for change in TABLE[action].changes if change.kind is kind)
    return change


def accept_change(action: Action, kind: Kind, status: ResourceStatus) -> ResourceStatus:
    """Return the status that accepting `action` puts a resource in. InvalidTransitionError if the table refuses."""
    change = change_of(action, kind)
    if status in change.sources:
        return change.during
    raise InvalidTransitionError(action.word, status, None, allowed_changes(kind, status), resource=kind)


def is_at_rest(kind: Kind, status: ResourceStatus) -> bool:
    """Whether no operation changes a resource in this status."""
    return all(status is not change.during for rule in TABLE.values() for change in rule.changes if change.kind is kind)


def allowed_changes(kind: Kind, status: ResourceStatus) -> list[str]:
    """Return the words of all actions on a resource that may begin in this status."""
    # A create or a delete of a VM is no action on the resource, although it changes the resource, too.
    rules = ((other, rule) for other, rule in TABLE.items() if other not in {Action.CREATE, Action.DELETE})
    changes = ((other.word, change) for other, rule in rules for change in rule.changes)
    return [word for word, change in changes if change.kind is kind and status in change.sources]
