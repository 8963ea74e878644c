"""The lifecycle table against the specification, for every action, status and task state, launched or not."""

from itertools import product

import pytest

from domain.rules import lifecycle, table
from domain.rules.errors import IllegalStepError, InvalidTransitionError
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import TABLE, Residue
from tests.domain.specified import (
    AS_BEFORE,
    OF_NO_VM,
    SPECIFIED,
    STATUSES,
    TASK_STATES,
    UNCHANGED,
    UNDOABLE,
    specified_failure,
    specified_states,
    specified_to_allow,
)

EVERY_TASK_STATE = [None, *TaskState]
each_action = pytest.mark.parametrize("action", TABLE)
each_status = pytest.mark.parametrize("status", Status)


def test_statuses_task_states_and_actions_are_as_specified() -> None:
    assert [status.value for status in Status] == STATUSES
    assert {state.value for state in TaskState} == set(TASK_STATES)
    assert [action.value for action in TABLE] == list(SPECIFIED)
    assert list(Action) == [*TABLE, Action.ADOPT, Action.RESET_STATE]


@each_action
@each_status
def test_an_action_begins_exactly_in_the_specified_states(action: Action, status: Status) -> None:
    for task_state, launched in product(EVERY_TASK_STATE, (True, False)):
        allowed = specified_to_allow(action, status, task_state, launched=launched)
        assert lifecycle.is_allowed(action, status, task_state, launched=launched) is allowed
        if allowed:
            claim = lifecycle.accept(action, status, task_state, launched=launched)
            assert (claim.status, claim.task_state) == _state_once_accepted(action, status)
        else:
            with pytest.raises(InvalidTransitionError):
                lifecycle.accept(action, status, task_state, launched=launched)


@each_action
def test_an_operation_may_be_canceled_before_it_begins_and_later_if_it_can_be_undone(action: Action) -> None:
    rule = TABLE[action]
    assert rule.may_be_canceled(begun=True) is (action.value in UNDOABLE)
    assert rule.may_be_canceled(begun=False) is (action is not Action.DELETE)


@each_action
@each_status
def test_a_refusal_names_the_state_of_the_vm_and_the_allowed_actions(action: Action, status: Status) -> None:
    for task_state, launched in product(EVERY_TASK_STATE, (True, False)):
        if specified_to_allow(action, status, task_state, launched=launched):
            continue
        with pytest.raises(InvalidTransitionError) as refusal:
            lifecycle.accept(action, status, task_state, launched=launched)
        error = refusal.value
        assert (error.code, error.status, error.task_state) == ("invalid_transition", status, task_state)
        assert error.allowed_actions == lifecycle.allowed_actions(status, task_state, launched=launched)
        if task_state:
            assert str(error).startswith("The VM is busy ")
        else:
            assert str(error).startswith("Cannot ")
            assert f" a VM in status {status}; allowed now: " in str(error)


@each_status
def test_allowed_actions_are_the_words_of_all_actions_that_may_begin(status: Status) -> None:
    for task_state, launched in product(EVERY_TASK_STATE, (True, False)):
        expected = [
            "reboot" if action.startswith("reboot") else action
            for action in SPECIFIED
            if specified_to_allow(action, status, task_state, launched=launched) and TABLE[Action(action)].workflow
        ]
        actual = lifecycle.allowed_actions(status, task_state, launched=launched)
        assert actual == list(dict.fromkeys(expected))


def test_every_action_with_a_workflow_is_allowed_in_some_status() -> None:
    offered = {word for status in Status for word in lifecycle.allowed_actions(status, None, launched=True)}
    served = {action.word for action, rule in TABLE.items() if rule.workflow}
    assert offered == served - {"create"} - OF_NO_VM


@each_action
def test_a_step_is_entered_from_the_one_before_it_or_from_itself(action: Action) -> None:
    steps = [TaskState(state) for state in SPECIFIED[action].task_states]
    for before, step in zip([None, *steps], steps, strict=False):
        assert set(lifecycle.may_enter_from(action, step)) == {before, step} - {None}
    for other in set(TaskState) - set(steps):
        with pytest.raises(IllegalStepError):
            lifecycle.may_enter_from(action, other)


@each_action
def test_progress_grows_with_every_step_and_stays_below_100(action: Action) -> None:
    percents = [lifecycle.progress(action, TaskState(state)) for state in SPECIFIED[action].task_states]
    assert percents == sorted(set(percents))
    assert all(0 <= percent < 100 for percent in percents)


@each_action
def test_an_action_finishes_in_the_specified_status_and_only_after_its_last_step(action: Action) -> None:
    row = SPECIFIED[action]
    for task_state, previous in product(EVERY_TASK_STATE, Status):
        if not row.task_states or task_state == row.task_states[-1]:
            expected = previous if row.ends == AS_BEFORE else row.ends
            assert lifecycle.finish(action, task_state, previous) == expected
        else:
            with pytest.raises(IllegalStepError):
                lifecycle.finish(action, task_state, previous)


@each_action
def test_a_failure_leaves_the_specified_status(action: Action) -> None:
    for previous, residue in product(Status, Residue):
        assert lifecycle.fail(action, previous, residue) == specified_failure(action, previous, residue)


@pytest.mark.parametrize("residue", Residue)
def test_only_a_server_that_is_found_running_makes_a_failed_reboot_active(residue: Residue) -> None:
    expected = {Residue.RUNNING: Status.ACTIVE, Residue.NOT_BEGUN: Status.SHUTOFF}
    assert lifecycle.fail(Action.REBOOT_HARD, Status.SHUTOFF, residue) is expected.get(residue, Status.ERROR)


def test_a_vm_that_never_launched_allows_only_delete() -> None:
    for status, task_state in lifecycle.legal_states():
        allowed = lifecycle.allowed_actions(status, task_state, launched=False)
        assert allowed == ([] if status in {Status.DELETING, Status.DELETED} else ["delete"])


def test_the_legal_states_are_the_specified_ones() -> None:
    assert lifecycle.legal_states() == specified_states()


def test_the_legal_states_are_exactly_the_reachable_ones() -> None:
    first = lifecycle.claimed(Action.CREATE, Status.BUILDING)
    reached: set[tuple[Status, TaskState | None]] = set()
    to_visit = [(first.status, first.task_state)]
    while to_visit:
        state = to_visit.pop()
        if state not in reached:
            reached.add(state)
            to_visit += _states_after(*state)
    assert reached == lifecycle.legal_states()


def _state_once_accepted(action: Action, status: Status) -> tuple[str, str | None]:
    """Return the status and task state once the action is accepted, by the specification."""
    row = SPECIFIED[action]
    shown = status if row.while_running == UNCHANGED else row.while_running
    return shown, row.task_states[0] if row.task_states else None


def _states_after(status: Status, task_state: TaskState | None) -> list[tuple[Status, TaskState | None]]:
    """Return every state that can follow when an action is accepted, advances, finishes or fails."""
    after: list[tuple[Status, TaskState | None]] = []
    for action, rule in TABLE.items():
        if lifecycle.is_allowed(action, status, task_state, launched=True):
            claim = lifecycle.accept(action, status, task_state, launched=True)
            after.append((claim.status, claim.task_state))
        runs_here = task_state in rule.steps and rule.during in {status, table.PREVIOUS}
        if task_state is None or not runs_here:
            continue
        if rule.during is table.PREVIOUS:
            previous = rule.sources & {status}
        else:
            previous = rule.sources - {Status.VERIFY_RESIZE} or frozenset({Status.ACTIVE, Status.SHUTOFF})
        after += [(status, step) for step in rule.steps if task_state in lifecycle.may_enter_from(action, step)]
        after += [(lifecycle.fail(action, status, residue), None) for status, residue in product(previous, Residue)]
        if task_state is rule.steps[-1]:
            after += [(lifecycle.finish(action, task_state, status), None) for status in previous]
    return after
