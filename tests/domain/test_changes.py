"""Changes of resources against the specification, for every action, kind and status. Also: what attachments block."""

from itertools import product

import pytest

from domain.rules import lifecycle
from domain.rules.errors import AttachmentInProgressError, InvalidTransitionError
from domain.rules.lifecycle import accept_change, change_of
from domain.rules.resources import AttachmentStatus, Change, Kind, ResourceStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import TABLE
from tests.domain.specified import (
    CHANGES,
    CHANGES_BY_VM_DELETE,
    DELETED_ON_TERMINATION,
    NOT_WHILE_ATTACHING,
    OF_NO_VM,
    RESOURCE_STATUSES,
    ChangeRow,
    specified_to_allow,
)

STATUSES_OF: dict[Kind, type[SnapshotStatus | VolumeStatus | AttachmentStatus]] = {
    Kind.SNAPSHOT: SnapshotStatus,
    Kind.VOLUME: VolumeStatus,
    Kind.ATTACHMENT: AttachmentStatus,
    Kind.INTERFACE: AttachmentStatus,
}
EVERY_CHANGE = [(Action(action), Kind(kind)) for action, changes in CHANGES.items() for kind in changes]
each_change = pytest.mark.parametrize(("action", "kind"), EVERY_CHANGE)


def row_of(change: Change, sources: tuple[ResourceStatus, ...] = ()) -> ChangeRow:
    """Return the change in the form of the specification."""
    return ChangeRow(sources, change.during, change.target, change.on_failure, change.if_still_there)


def test_resource_statuses_are_as_specified() -> None:
    assert {kind: [status.value for status in statuses] for kind, statuses in STATUSES_OF.items()} == RESOURCE_STATUSES


def test_each_action_changes_exactly_the_specified_kinds() -> None:
    changed = {action: {change.kind for change in rule.changes} for action, rule in TABLE.items() if rule.changes}
    specified = {action: set(changes) for action, changes in CHANGES.items()}
    assert changed == specified | {"delete": {kind for kind, _ in CHANGES_BY_VM_DELETE}}


@each_change
def test_a_change_begins_exactly_in_the_specified_statuses(action: Action, kind: Kind) -> None:
    expected = CHANGES[action][kind]
    for status in STATUSES_OF[kind]:
        if status in expected.sources:
            assert accept_change(action, kind, status) == expected.while_running
            continue
        with pytest.raises(InvalidTransitionError) as refusal:
            accept_change(action, kind, status)
        error = refusal.value
        assert (error.code, error.status, error.task_state) == ("invalid_transition", status, None)
        assert error.allowed_actions == _allowed(kind, status)
        assert str(error).startswith(f"Cannot {action.word.partition('-')[0]} a")
        assert f" {kind} in status {status}; allowed now: " in str(error)


def _allowed(kind: Kind, status: ResourceStatus) -> list[str]:
    on_resources = {action: changes for action, changes in CHANGES.items() if action != "create"}
    return [action for action, changes in on_resources.items() if kind in changes and status in changes[kind].sources]


@each_change
def test_a_change_ends_as_specified(action: Action, kind: Kind) -> None:
    change = change_of(action, kind)
    assert row_of(change, change.sources) == CHANGES[action][kind]


def test_a_delete_of_the_vm_changes_its_resources_as_specified() -> None:
    """The table does not list a snapshot that is being restored: the delete releases it."""
    held = {
        (change.kind, status): row_of(change)
        for change in TABLE[Action.DELETE].changes
        for status in change.sources
        if change.target is not VolumeStatus.DELETED
    }
    released = {("snapshot", "RESTORING"): CHANGES_BY_VM_DELETE["snapshot", "RESTORING"]}
    assert held | released == CHANGES_BY_VM_DELETE


def test_a_volume_with_delete_on_termination_is_deleted() -> None:
    (change,) = (change for change in TABLE[Action.DELETE].changes if change.target is VolumeStatus.DELETED)
    assert row_of(change) == DELETED_ON_TERMINATION
    assert {("volume", status) for status in change.sources} == {key for key in CHANGES_BY_VM_DELETE if "volume" in key}


def test_an_action_that_creates_a_resource_never_begins_on_an_existing_one() -> None:
    creating = [(action, kind) for action, kind in EVERY_CHANGE if not CHANGES[action][kind].sources]
    assert len(creating) == 6
    for action, kind in creating:
        for status in STATUSES_OF[kind]:
            with pytest.raises(InvalidTransitionError):
                accept_change(action, kind, status)


def test_only_the_specified_actions_need_no_vm() -> None:
    assert {action for action, rule in TABLE.items() if not rule.is_on_vm} == OF_NO_VM


def test_only_the_specified_actions_outlive_a_delete_of_the_vm() -> None:
    assert {action for action, rule in TABLE.items() if not rule.of_vm} == OF_NO_VM - {"extend-volume"}


@pytest.mark.parametrize("action", TABLE)
def test_an_action_during_an_attach_begins_exactly_in_the_specified_states(action: Action) -> None:
    for status, task_state, launched in product(Status, [None, *TaskState], (True, False)):
        allowed = specified_to_allow(action, status, task_state, launched=launched, attaching=True)
        assert lifecycle.is_allowed(action, status, task_state, launched=launched, attaching=True) is allowed
        if allowed:
            claim = lifecycle.accept(action, status, task_state, launched=launched, attaching=True)
            assert claim == lifecycle.claimed(action, status)
            continue
        with pytest.raises(InvalidTransitionError) as refusal:
            lifecycle.accept(action, status, task_state, launched=launched, attaching=True)
        waits = specified_to_allow(action, status, task_state, launched=launched)
        assert refusal.value.code == ("attachment_in_progress" if waits else "invalid_transition")


def test_only_the_specified_actions_wait_for_an_attach() -> None:
    assert {action for action, rule in TABLE.items() if not rule.beside_attachments} == NOT_WHILE_ATTACHING


@pytest.mark.parametrize("action", [Action.RESIZE, Action.SNAPSHOT, Action.RESTORE])
@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
def test_the_error_of_an_action_that_has_to_wait_lists_the_allowed_actions(action: Action, status: Status) -> None:
    with pytest.raises(AttachmentInProgressError) as refusal:
        lifecycle.accept(action, status, None, launched=True, attaching=True)
    error = refusal.value
    allowed = [
        word for word in lifecycle.allowed_actions(status, None, launched=True) if word not in NOT_WHILE_ATTACHING
    ]
    assert (error.status, error.task_state, error.allowed_actions) == (status, None, allowed)
    assert {"attach-volume", "detach-interface", "delete"} <= set(allowed)
    assert str(error).startswith("Cannot ")
    assert "while a volume or an interface is being attached" in str(error)
