"""Random lives of a VM: after any sequence of actions, steps and ends, the table's invariants hold."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.rules import lifecycle
from domain.rules.errors import IllegalStepError, InvalidTransitionError
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import TABLE, Residue

BEGINNING = sorted(TABLE.keys() - {Action.CREATE})


class Life(RuleBasedStateMachine):
    """One VM and the operation that holds it."""

    @initialize(was_built=st.booleans())
    def is_created(self, *, was_built: bool) -> None:
        claim = lifecycle.claimed(Action.CREATE, Status.BUILDING)
        self.status: Status = claim.status
        self.task_state: TaskState | None = claim.task_state
        self.running: Action | None = Action.CREATE
        self.previous = Status.BUILDING
        self.launched = False
        if was_built:
            self.status, self.task_state, self.running, self.launched = Status.ACTIVE, None, None, True

    @rule(action=st.sampled_from(BEGINNING))
    def is_asked(self, action: Action) -> None:
        """An action is asked for while anything may run: it is refused and changes nothing, or it claims the VM."""
        before = (self.status, self.task_state)
        try:
            claim = lifecycle.accept(action, *before, launched=self.launched)
        except InvalidTransitionError:
            assert not lifecycle.is_allowed(action, *before, launched=self.launched)
            return
        if not TABLE[action].steps:
            assert (claim.status, claim.task_state) == before  # it claims the attachment, not the VM
            return
        if action not in {Action.CONFIRM_RESIZE, Action.REVERT_RESIZE}:
            self.previous = self.status
        self.status, self.task_state, self.running = claim.status, claim.task_state, action

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def enters(self, data: st.DataObject) -> None:
        """The workflow enters any of its steps: only the present step and the next one are accepted."""
        assert self.running
        assert self.task_state
        steps = TABLE[self.running].steps
        step = data.draw(st.sampled_from(steps))
        may_enter = self.task_state in lifecycle.may_enter_from(self.running, step)
        assert may_enter is (steps.index(step) - steps.index(self.task_state) in {0, 1})
        self.task_state = step if may_enter else self.task_state

    @precondition(lambda self: self.running)
    @rule()
    def finishes(self) -> None:
        """The workflow records a success: this is legal only in the last step."""
        assert self.running
        last = TABLE[self.running].steps[-1]
        try:
            status = lifecycle.finish(self.running, self.task_state, self.previous)
        except IllegalStepError:
            assert self.task_state is not last
            return
        assert self.task_state is last
        self.launched = self.launched or self.running is Action.CREATE
        self.status, self.task_state, self.running = status, None, None

    @precondition(lambda self: self.running)
    @rule(residue=st.sampled_from(Residue))
    def fails(self, residue: Residue) -> None:
        assert self.running
        self.status = lifecycle.fail(self.running, self.previous, residue)
        self.task_state = self.running = None

    @invariant()
    def is_in_a_legal_state(self) -> None:
        assert (self.status, self.task_state) in lifecycle.legal_states()

    @invariant()
    def allows_exactly_the_actions_that_would_be_accepted(self) -> None:
        accepted = set()
        for action, row in TABLE.items():
            try:
                lifecycle.accept(action, self.status, self.task_state, launched=self.launched)
            except InvalidTransitionError:
                continue
            accepted |= {action.word} if row.workflow else set()
        assert set(lifecycle.allowed_actions(self.status, self.task_state, launched=self.launched)) == accepted

    @invariant()
    def allows_only_delete_before_it_has_launched(self) -> None:
        if not self.launched:
            assert set(lifecycle.allowed_actions(self.status, self.task_state, launched=False)) <= {"delete"}

    @invariant()
    def can_be_deleted_unless_it_is_deleted_already(self) -> None:
        deletable = lifecycle.is_allowed(Action.DELETE, self.status, self.task_state, launched=self.launched)
        assert deletable is (self.status not in {Status.DELETING, Status.DELETED})


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)
test_the_invariants_hold_in_every_random_life = Life.TestCase
