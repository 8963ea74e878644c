"""What actions do beside VMs, against the specification: every action, kind and status; and who waits for whom."""

from itertools import product

import pytest

from domain.rules import lifecycle
from domain.rules.errors import AttachmentInProgressError, InvalidTransitionError
from domain.rules.lifecycle import begin_change, change_of
from domain.rules.resources import AttachmentStatus, Kind, ResourceStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import TABLE
from tests.domain.specified import (
    DELETED_ON_TERMINATION,
    NOT_WHILE_ATTACHING,
    OF_NO_VM,
    RESOURCE_STATUSES,
    TURNS,
    TURNS_OF_VM_DELETE,
    Turn,
    specified_to_allow,
)

STATUSES_OF: dict[Kind, type[SnapshotStatus | VolumeStatus | AttachmentStatus]] = {
    Kind.SNAPSHOT: SnapshotStatus,
    Kind.VOLUME: VolumeStatus,
    Kind.ATTACHMENT: AttachmentStatus,
    Kind.INTERFACE: AttachmentStatus,
}
EVERY_TURN = [(Action(action), Kind(kind)) for action, turns in TURNS.items() for kind in turns]
each_turn = pytest.mark.parametrize(("action", "kind"), EVERY_TURN)


def test_the_words_of_statuses_are_the_specified_ones() -> None:
    assert {kind: [status.value for status in statuses] for kind, statuses in STATUSES_OF.items()} == RESOURCE_STATUSES


def test_actions_change_what_they_are_specified_to_and_nothing_else() -> None:
    changed = {action: {change.kind for change in rule.changes} for action, rule in TABLE.items() if rule.changes}
    specified = {action: set(turns) for action, turns in TURNS.items()}
    assert changed == specified | {"delete": {kind for kind, _ in TURNS_OF_VM_DELETE}}


@each_turn
def test_a_change_begins_exactly_where_it_is_specified_to(action: Action, kind: Kind) -> None:
    turn = TURNS[action][kind]
    for status in STATUSES_OF[kind]:
        if status in turn.sources:
            assert begin_change(action, kind, status) == turn.while_running
            continue
        with pytest.raises(InvalidTransitionError) as refusal:
            begin_change(action, kind, status)
        error = refusal.value
        assert (error.code, error.status, error.task_state) == ("invalid_transition", status, None)
        assert error.allowed_actions == _allowed(kind, status)
        assert str(error).startswith(f"Cannot {action.word.partition('-')[0]} a")
        assert f" {kind} in status {status}; allowed now: " in str(error)


def _allowed(kind: Kind, status: ResourceStatus) -> list[str]:
    return [action for action, turns in TURNS.items() if kind in turns and status in turns[kind].sources]


@each_turn
def test_a_change_ends_where_it_is_specified_to(action: Action, kind: Kind) -> None:
    change = change_of(action, kind)
    assert Turn(change.sources, change.during, change.target, change.on_failure, change.intact) == TURNS[action][kind]


def test_a_delete_of_the_vm_changes_what_it_is_specified_to() -> None:
    """But for a snapshot that is being restored, which it lets go rather than hold."""
    held = {
        (change.kind, status): Turn((), change.during, change.target, change.on_failure, change.intact)
        for change in TABLE[Action.DELETE].changes
        for status in change.sources
        if change.target is not VolumeStatus.DELETED
    }
    let_go = {("snapshot", "RESTORING"): TURNS_OF_VM_DELETE["snapshot", "RESTORING"]}
    assert held | let_go == TURNS_OF_VM_DELETE


def test_a_volume_that_goes_with_its_vm_is_deleted() -> None:
    (change,) = (change for change in TABLE[Action.DELETE].changes if change.target is VolumeStatus.DELETED)
    assert Turn((), change.during, change.target, change.on_failure, change.intact) == DELETED_ON_TERMINATION
    assert {("volume", status) for status in change.sources} == {key for key in TURNS_OF_VM_DELETE if "volume" in key}


def test_what_is_made_cannot_be_made_of_what_is_there() -> None:
    making = [(action, kind) for action, kind in EVERY_TURN if not TURNS[action][kind].sources]
    assert len(making) == 5
    for action, kind in making:
        for status in STATUSES_OF[kind]:
            with pytest.raises(InvalidTransitionError):
                begin_change(action, kind, status)


def test_exactly_these_actions_outlive_a_delete_of_the_vm() -> None:
    assert {action for action, rule in TABLE.items() if not rule.of_vm} == OF_NO_VM


@pytest.mark.parametrize("action", TABLE)
def test_while_something_attaches_an_action_begins_exactly_where_it_is_specified_to(action: Action) -> None:
    for status, task_state, launched in product(Status, [None, *TaskState], (True, False)):
        allowed = specified_to_allow(action, status, task_state, launched=launched, attaching=True)
        assert lifecycle.is_allowed(action, status, task_state, launched=launched, attaching=True) is allowed
        if allowed:
            claim = lifecycle.begin(action, status, task_state, launched=launched, attaching=True)
            assert claim == lifecycle.claimed(action, status)
            continue
        with pytest.raises(InvalidTransitionError) as refusal:
            lifecycle.begin(action, status, task_state, launched=launched, attaching=True)
        waits = specified_to_allow(action, status, task_state, launched=launched)
        assert refusal.value.code == ("attachment_in_progress" if waits else "invalid_transition")


def test_exactly_these_wait_for_what_is_attached() -> None:
    assert {action for action, rule in TABLE.items() if not rule.beside_attachments} == NOT_WHILE_ATTACHING


@pytest.mark.parametrize("action", [Action.RESIZE, Action.SNAPSHOT, Action.RESTORE])
@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
def test_what_has_to_wait_says_so_and_what_is_allowed_meanwhile(action: Action, status: Status) -> None:
    with pytest.raises(AttachmentInProgressError) as refusal:
        lifecycle.begin(action, status, None, launched=True, attaching=True)
    error = refusal.value
    allowed = [
        word for word in lifecycle.allowed_actions(status, None, launched=True) if word not in NOT_WHILE_ATTACHING
    ]
    assert (error.status, error.task_state, error.allowed_actions) == (status, None, allowed)
    assert {"attach-volume", "detach-interface", "delete"} <= set(allowed)
    assert str(error).startswith("Cannot ")
    assert "while a volume or an interface is being attached" in str(error)
