"""Labels: how a change of them is merged into those that a resource has."""

from collections.abc import Mapping
from typing import ClassVar, Final

from domain.rules.errors import FieldIssue, ServiceError

MOST_LABELS: Final = 64  # of one resource


class TooManyLabelsError(ServiceError):
    """The resource would have more than MOST_LABELS labels after the change."""

    code: ClassVar[str] = "validation_failed"

    def __init__(self, count: int) -> None:
        message = f"There may be at most {MOST_LABELS} labels; with this change there are {count}."
        super().__init__(message)
        self.fields = [FieldIssue("labels", "too_long", message)]


def merged(labels: Mapping[str, str], changes: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return the labels after a change (RFC 7396): None removes a label, and None for all of them removes all.

    TooManyLabelsError if they are too many.
    """
    if changes is None:
        return {}
    result = {key: value for key, value in {**labels, **changes}.items() if value is not None}
    if len(result) > MOST_LABELS:
        raise TooManyLabelsError(len(result))
    return result
