"""What the lifecycle table lets actions do to snapshots, volumes, attachments and interfaces. Pure, as the table."""

from domain.errors import InvalidTransitionError
from domain.lifecycle import TABLE, Action
from domain.resources import Change, Kind, ResourceStatus


def change_of(action: Action, kind: Kind) -> Change:
    """What the action does to a resource of the kind; it has one such change."""
    (change,) = (change for change in TABLE[action].changes if change.kind is kind)
    return change


def begin_change(action: Action, kind: Kind, status: ResourceStatus) -> ResourceStatus:
    """The status that accepting `action` puts a resource in; InvalidTransitionError where the table refuses."""
    change = change_of(action, kind)
    if status in change.sources:
        return change.during
    others = ((one.word, change) for one, rule in TABLE.items() if not rule.preempts for change in rule.changes)
    allowed = [word for word, change in others if change.kind is kind and status in change.sources]
    raise InvalidTransitionError(action.word, status, None, allowed, resource=kind)
