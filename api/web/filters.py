"""Query parameters that narrow a list: words of a vocabulary, and labels."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Query
from pydantic import StringConstraints
from sqlalchemy import ARRAY, ColumnElement, Text, and_, cast, false
from sqlalchemy.orm import InstrumentedAttribute

from api.web.fields import LABEL_KEY
from domain.data.models import VM
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status

_LABEL = rf"{LABEL_KEY}(=[^,\x00-\x1f\x7f-\x9f]{{0,255}})?"
_SEVERAL = "One or several, comma separated or repeated"


def _list_of(one: str) -> StringConstraints:
    return StringConstraints(pattern=f"^{one}(,{one})*$")


def _any_of(words: Iterable[str]) -> StringConstraints:
    return _list_of(f"({'|'.join(dict.fromkeys(words))})")


Statuses = Annotated[
    list[Annotated[str, _any_of(Status)]],
    Query(alias="status", description=f"{_SEVERAL}; DELETED only comes when it is asked for.", examples=[["ACTIVE"]]),
]
SnapshotStatuses = Annotated[
    list[Annotated[str, _any_of(SnapshotStatus)]],
    Query(alias="status", description=f"{_SEVERAL}; DELETED only comes when it is asked for.", examples=[["ERROR"]]),
]
VolumeStatuses = Annotated[
    list[Annotated[str, _any_of(VolumeStatus)]],
    Query(alias="status", description=f"{_SEVERAL}; DELETED only comes when it is asked for.", examples=[["IN_USE"]]),
]
OperationStatuses = Annotated[
    list[Annotated[str, _any_of(OperationStatus)]],
    Query(alias="status", description=f"{_SEVERAL}.", examples=[["QUEUED,RUNNING"]]),
]
ActionWords = Annotated[
    list[Annotated[str, _any_of(action.word for action in Action)]],
    Query(alias="action", description=f"{_SEVERAL}.", examples=[["create"]]),
]
LabelFilter = Annotated[
    list[Annotated[str, _list_of(_LABEL)]],
    Query(
        description="`key=value` for VMs with that label, `key` for VMs with any value of it; several, comma separated "
        "or repeated, all have to hold.",
        examples=[["env=prod,tier"]],
    ),
]


def words(given: list[str]) -> set[str]:
    """The words of a parameter that may be repeated and hold several each."""
    return {word for several in given for word in several.split(",")}


def has_status(column: InstrumentedAttribute[Any], given: list[str], *, without: str) -> ColumnElement[bool]:
    """Whether something is in one of the statuses asked for; `without` one of them where none is asked for."""
    return column.in_(words(given)) if given else column != without


def actions(given: list[str]) -> set[Action]:
    """The actions that paths and answers call by the given words."""
    asked = words(given)
    return {action for action in Action if action.word in asked}


def has_labels(given: list[str]) -> ColumnElement[bool]:
    """Whether a VM has every label asked for; one statement however many, as each that differs is compiled and kept."""
    asked = [label.partition("=") for label in words(given)]
    values = {(key, value) for key, equals, value in asked if equals}
    wanted = dict(values)
    if len(wanted) < len(values):
        return false()  # a label has one value
    keys = cast([key for key, equals, _ in asked if not equals], ARRAY(Text))
    labels: ColumnElement[dict[str, str]] = VM.labels.expression
    return and_(labels.contains(wanted), labels.has_all(keys))
