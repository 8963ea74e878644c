"""The texts of refusals say why the action is refused and which actions are allowed."""

import pytest

from domain.rules.errors import AttachmentInProgressError, InvalidTransitionError
from domain.rules.states import TaskState


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            InvalidTransitionError("stop", "ACTIVE", "image_snapshot", ["delete"]),
            "The VM is busy taking a snapshot; allowed now: delete.",
        ),
        (
            InvalidTransitionError("start", "ACTIVE", None, ["stop", "delete"]),
            "Cannot start a VM in status ACTIVE; allowed now: stop, delete.",
        ),
        (
            InvalidTransitionError("attach-volume", "ERROR", None, []),
            "Cannot attach a volume to a VM in status ERROR; allowed now: nothing.",
        ),
        (
            InvalidTransitionError("attach-volume", "IN_USE", None, [], resource="volume"),
            "Cannot attach a volume in status IN_USE; allowed now: nothing.",
        ),
        (
            InvalidTransitionError("detach-interface", "DETACHING", None, [], resource="interface"),
            "Cannot detach an interface in status DETACHING; allowed now: nothing.",
        ),
        (
            AttachmentInProgressError("resize", "ACTIVE", None, ["stop"]),
            "Cannot resize a VM while a volume or an interface is being attached or detached; allowed now: stop.",
        ),
    ],
)
def test_the_text_of_a_refusal(error: InvalidTransitionError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("task_state", TaskState)
def test_every_task_state_is_described_in_words(task_state: TaskState) -> None:
    text = str(InvalidTransitionError("stop", "ACTIVE", task_state, []))
    assert text.startswith("The VM is busy ")
    assert task_state.value not in text or "_" not in task_state.value
