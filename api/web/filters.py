"""Query parameters that filter several lists: statuses, actions, labels. A filter of one list stands in its route."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Query
from pydantic import StringConstraints
from sqlalchemy import ARRAY, ColumnElement, Text, and_, cast, false, literal_column
from sqlalchemy.orm import InstrumentedAttribute

from api.web.fields import LABEL_KEY
from domain.data.models import VM
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status

_LABEL = rf"{LABEL_KEY}(=[^,\x00-\x1f\x7f-\x9f]{{0,255}})?"
_SEVERAL = "One or more values, separated by commas or in repeated parameters."
_STATUS = f"{_SEVERAL} Without this parameter, DELETED is left out."


def _list_of(item: str) -> StringConstraints:
    return StringConstraints(pattern=f"^{item}(,{item})*$")


def _any_of(words: Iterable[str]) -> StringConstraints:
    return _list_of(f"({'|'.join(dict.fromkeys(words))})")


Statuses = Annotated[
    list[Annotated[str, _any_of(Status)]], Query(alias="status", description=_STATUS, examples=[["ACTIVE"]])
]
SnapshotStatuses = Annotated[
    list[Annotated[str, _any_of(SnapshotStatus)]], Query(alias="status", description=_STATUS, examples=[["ERROR"]])
]
VolumeStatuses = Annotated[
    list[Annotated[str, _any_of(VolumeStatus)]], Query(alias="status", description=_STATUS, examples=[["IN_USE"]])
]
OperationStatuses = Annotated[
    list[Annotated[str, _any_of(OperationStatus)]],
    Query(alias="status", description=_SEVERAL, examples=[["QUEUED,RUNNING"]]),
]
ActionWords = Annotated[
    list[Annotated[str, _any_of(action.word for action in Action)]],
    Query(alias="action", description=_SEVERAL, examples=[["create"]]),
]
LabelFilter = Annotated[
    list[Annotated[str, _list_of(_LABEL)]],
    Query(
        description="`key=value` selects VMs with that label, `key` VMs with any value of it. Several filters, "
        "separated by commas or in repeated parameters, must all match.",
        examples=[["env=prod,tier"]],
    ),
]


def words(values: list[str]) -> set[str]:
    """The words of a parameter that may be repeated and may hold several words each time."""
    return {word for value in values for word in value.split(",")}


def has_status(column: InstrumentedAttribute[Any], values: list[str], *, hidden_by_default: str) -> ColumnElement[bool]:
    """Whether a row has one of the requested statuses; if none is requested, any but `hidden_by_default`."""
    # A literal, because it is the condition of partial indexes: the planner cannot prove it from a parameter.
    is_shown = column != literal_column(f"'{hidden_by_default}'")
    requested = words(values)
    if not requested:
        return is_shown
    has_requested = column.in_(requested)
    return has_requested if hidden_by_default in requested else and_(has_requested, is_shown)


def actions(values: list[str]) -> set[Action]:
    """The actions whose words are given; one word may mean several actions."""
    requested = words(values)
    return {action for action in Action if action.word in requested}


def has_labels(values: list[str]) -> ColumnElement[bool]:
    """Whether a VM has every requested label."""
    # The labels go into two bind parameters of SQL, so that the statement is the same for any number of labels. With a
    # condition for each label, SQLAlchemy and asyncpg would compile and cache one statement for each number.
    filters = [label.partition("=") for label in words(values)]
    pairs = {(key, value) for key, equals, value in filters if equals}
    value_of = dict(pairs)
    if len(value_of) < len(pairs):
        return false()  # two values of one key are requested, but a label has one
    keys = cast([key for key, equals, _ in filters if not equals], ARRAY(Text))
    labels: ColumnElement[dict[str, str]] = VM.labels.expression
    return and_(labels.contains(value_of), labels.has_all(keys))
