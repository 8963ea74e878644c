"""How the body of an operation has ended, and what was found after a failure."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.messages import LeftoversResult, OperationInput
from domain.rules.table import Residue

CloudState = ServerStatus | VolumeState | ImageState | PortState


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What was found after a failure: the state in the cloud, if it was observed, and what that means as a residue.

    `leftovers` is what the cloud still has after a failed delete. `undo_error` says why an undo was refused. With
    `succeeded`, the cloud has done what was asked, and the operation counts as a success.
    """

    observed: CloudState | None = None
    residue: Residue = Residue.UNKNOWN
    leftovers: LeftoversResult | None = None
    undo_error: str = ""
    succeeded: bool = False


@dataclass(slots=True)
class Outcome:
    """Whether an operation has been recorded as a success; `is_recorded` if the body itself has done that."""

    succeeded: bool = False
    is_recorded: bool = False


AfterFailure = Callable[[OperationInput, str], Awaitable[Aftermath]]
"""Undoes or observes what a failed operation has left, given its error's code. Cancels do not interrupt it."""
