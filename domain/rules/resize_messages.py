"""The messages about the time in which a resize waits to be confirmed; see `messages`."""

from dataclasses import dataclass

from domain.rules.messages import OperationInput


@dataclass(frozen=True)
class ConfirmWindowResult:
    """Seconds until a resize confirms itself, or None if it never does.

    `is_over`: the resize can no longer be confirmed or reverted.
    """

    seconds: float | None
    is_over: bool = False


@dataclass(frozen=True)
class ClaimConfirmResult:
    """The operation that confirms, or None if another decision was faster. `is_over` as in ConfirmWindowResult."""

    confirm: OperationInput | None
    is_over: bool = False
