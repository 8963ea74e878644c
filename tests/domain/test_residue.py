"""FailOperationInput during an upgrade: this version and the one without `residue` read each other's messages."""

from dataclasses import dataclass
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from temporalio.converter import DataConverter

from domain.rules import lifecycle
from domain.rules.messages import FailOperationInput, LeftoversResult, OperationInput
from domain.rules.states import Action, Status
from domain.rules.table import TABLE, Residue

ID = UUID("00000000-0000-4000-8000-000000000001")
LEFTOVERS = LeftoversResult(ports=(ID,), flavor_id=ID)

# What `intact` made of the status in the version without `residue`; actions that are not here ignored it.
RUNNING = {Action.REBOOT_SOFT, Action.REBOOT_HARD}
DECISIONS = {Action.CONFIRM_RESIZE, Action.REVERT_RESIZE}
ENDS_IN_ERROR = {Action.CREATE, Action.RESTORE, Action.DELETE, Action.RESIZE} | RUNNING | DECISIONS
# What workflows of this version report beside UNKNOWN and NOT_BEGUN.
REPORTED = {
    **dict.fromkeys([Action.START, Action.STOP, Action.REBOOT_SOFT, Action.REBOOT_HARD], Residue.RUNNING),
    Action.DELETE: Residue.RUNNING,
    **dict.fromkeys([Action.RESIZE, Action.CONFIRM_RESIZE, Action.REVERT_RESIZE], Residue.UNCHANGED),
    Action.RESTORE: Residue.APPLIED,
    **dict.fromkeys([Action.CREATE, Action.DELETE_SNAPSHOT, Action.DELETE_VOLUME], Residue.STILL_THERE),
    **dict.fromkeys([Action.EXTEND_VOLUME, Action.ATTACH_VOLUME, Action.DETACH_VOLUME], Residue.STILL_THERE),
}
# What workflows of the earlier version reported: (intact, applied, begun).
FLAGS = [(False, False, True), (True, False, True), (False, True, True), (False, False, False)]
each_action = pytest.mark.parametrize("action", TABLE)


@dataclass(frozen=True)
class EarlierFailOperationInput:
    """The message as the earlier version knows it."""

    operation: OperationInput
    code: str
    message: str
    canceled: bool = False
    intact: bool = False
    applied: bool = False
    remains: LeftoversResult | None = None
    begun: bool = True


def earlier_fail(action: Action, previous: Status, *, intact: bool, begun: bool) -> Status:
    """Return the status after a failure, as the earlier version decided it."""
    if not begun and action not in {Action.CREATE, Action.DELETE}:
        return Status.VERIFY_RESIZE if action in DECISIONS else previous
    if action not in ENDS_IN_ERROR:
        return previous
    if intact and action in RUNNING:
        return Status.ACTIVE if previous is Status.SHUTOFF else previous
    if intact and action in DECISIONS:
        return Status.VERIFY_RESIZE
    return previous if intact and action is Action.RESIZE else Status.ERROR


def sent(message: object, kind: type[Any]) -> Any:
    """Return the message as a worker receives it that knows it as `kind`."""
    converter = DataConverter.default.payload_converter
    (received,) = converter.from_payloads(converter.to_payloads([message]), [kind])
    return received


@each_action
def test_an_earlier_worker_decides_the_same_from_a_new_message(action: Action) -> None:
    for residue in {Residue.UNKNOWN, Residue.NOT_BEGUN, REPORTED.get(action, Residue.UNKNOWN)}:
        message = FailOperationInput.of(OperationInput(ID, ID, action), "c", "m", residue, leftovers=LEFTOVERS)
        received = sent(message, EarlierFailOperationInput)
        for previous in Status:
            expected = lifecycle.fail(action, previous, residue)
            assert earlier_fail(action, previous, intact=received.intact, begun=received.begun) is expected
        for change in TABLE[action].changes:
            kept = change.if_still_there if residue is Residue.STILL_THERE else None
            assert ((received.intact and change.if_still_there) or None) == kept
        assert received.applied is (residue is Residue.APPLIED)
        assert received.remains == LEFTOVERS


@each_action
@pytest.mark.parametrize(("intact", "applied", "begun"), FLAGS)
def test_this_version_decides_the_same_from_an_earlier_message(
    action: Action, *, intact: bool, applied: bool, begun: bool
) -> None:
    operation = OperationInput(ID, ID, action)
    message = EarlierFailOperationInput(operation, "c", "m", intact=intact, applied=applied, begun=begun)
    received = sent(message, FailOperationInput)
    assert received.residue is None
    residue = received.observed_residue
    for previous in Status:
        expected = earlier_fail(action, previous, intact=intact, begun=begun)
        assert lifecycle.fail(action, previous, residue) is expected
    for change in TABLE[action].changes:
        kept = change.if_still_there if residue is Residue.STILL_THERE else None
        assert kept == (change.if_still_there if intact else None)
    assert (residue is Residue.APPLIED) is applied
    assert (residue is Residue.NOT_BEGUN) is not begun


@each_action
@pytest.mark.parametrize("residue", Residue)
def test_a_residue_arrives_as_it_was_sent(action: Action, residue: Residue) -> None:
    message = FailOperationInput.of(OperationInput(ID, ID, action), "c", "m", residue, canceled=True)
    received = sent(message, FailOperationInput)
    assert received == message
    assert received.observed_residue is residue


def test_a_message_of_the_first_version_means_an_unknown_residue() -> None:
    operation = OperationInput(ID, ID, Action.REBOOT_SOFT)
    assert FailOperationInput(operation, "c", "m").observed_residue is Residue.UNKNOWN


def test_only_one_flag_is_written_for_a_residue() -> None:
    for action, residue in product(TABLE, Residue):
        message = FailOperationInput.of(OperationInput(ID, ID, action), "c", "m", residue)
        assert [message.intact, message.applied, not message.begun].count(True) <= 1
