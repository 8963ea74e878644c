"""Filters that several lists share: statuses, actions, names. A filter of one list is in that list's route."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from sqlalchemy import ColumnElement, SQLColumnExpression, and_, case, false, func, literal_column, or_
from sqlalchemy.orm import InstrumentedAttribute

from api.web import label_selectors
from domain.data.search import Search, in_name, in_nfc, search_for
from domain.rules import text
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status

_SEVERAL = "One or more values, separated by commas or in repeated parameters."
FOR_STATUS = f"Wait until it has this status, or ERROR or DELETED. Needs `wait`. {_SEVERAL}"
ProjectID = Annotated[
    UUID | None, Query(description="Only those of this project. Without it, those of all projects that you may read.")
]
_STATUS = f"{_SEVERAL} Without this parameter, DELETED is left out."


@dataclass(frozen=True)
class Items:
    """The form of a list of items, and what its refusal says: the pattern would tell a person nothing."""

    item: str
    code: str
    detail: str
    words: tuple[str, ...] = ()  # those that an item can be, if they can be listed

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The form of the whole list."""
        return re.compile(f"^{self.item}(,{self.item})*$")

    def check(self, value: str) -> str:
        """Refuse a list of another form."""
        if not self.pattern.fullmatch(value):
            raise PydanticCustomError(self.code, "{detail}", {"detail": self.detail})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # A list of words becomes choices in Swagger UI and a type in generated clients, which repeat the parameter. The
        # description says that an item may also be several words with commas.
        form = {"enum": list(self.words)} if self.words else {"pattern": self.pattern.pattern}
        return {**handler(schema), **form}


def _any_of(words: Iterable[str]) -> Items:
    possible = list(dict.fromkeys(words))
    return Items(
        f"({'|'.join(possible)})", "unknown_value", f"Use one or more of {', '.join(possible)}.", tuple(possible)
    )


Statuses = Annotated[
    list[Annotated[str, _any_of(Status)]], Query(alias="status", description=_STATUS, examples=[["ACTIVE"]])
]
SnapshotStatuses = Annotated[
    list[Annotated[str, _any_of(SnapshotStatus)]], Query(alias="status", description=_STATUS, examples=[["ERROR"]])
]
VolumeStatuses = Annotated[
    list[Annotated[str, _any_of(VolumeStatus)]], Query(alias="status", description=_STATUS, examples=[["IN_USE"]])
]
ForStatuses = Annotated[list[Annotated[str, _any_of(Status)]], Query(alias="for", description=FOR_STATUS)]
ForVolumeStatuses = Annotated[list[Annotated[str, _any_of(VolumeStatus)]], Query(alias="for", description=FOR_STATUS)]
ForSnapshotStatuses = Annotated[
    list[Annotated[str, _any_of(SnapshotStatus)]], Query(alias="for", description=FOR_STATUS)
]
OperationStatuses = Annotated[
    list[Annotated[str, _any_of(OperationStatus)]],
    Query(alias="status", description=_SEVERAL, examples=[["QUEUED", "RUNNING"]]),
]
ActionWords = Annotated[
    list[Annotated[str, _any_of(action.word for action in Action)]],
    Query(alias="action", description=_SEVERAL, examples=[["create"]]),
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


def search(kind: str, name: str | None, selectors: list[label_selectors.LabelSelector]) -> Search | None:
    """The search for resources with this part in the name and these labels; None if no index helps."""
    return search_for(kind, [*(in_name(name) if name else ()), *label_selectors.terms(selectors)])


def has_name(column: InstrumentedAttribute[str], part: str) -> ColumnElement[bool]:
    """Whether the part is in a name, ignoring case, for the letters of all languages and in any locale."""
    # PostgreSQL's lower() and ILIKE know only the letters of the database's locale, and in the locale C only ASCII. A
    # regular expression is slower than LIKE, so names in ASCII are not searched with it: CASE keeps it from running.
    wanted, pattern = text.folded(part), text.search_pattern(part)
    # Early names are not in NFC. The pattern knows every form of a letter, but its accents in one order only.
    in_other_letters = _if_not_ascii(column, in_nfc(column).regexp_match(pattern))
    if not wanted.isascii():
        return in_other_letters
    in_ascii = func.lower(column.collate("C")).contains(wanted, autoescape=True)
    return in_ascii if pattern.isascii() else or_(in_ascii, in_other_letters)


def _if_not_ascii(texts: SQLColumnExpression[str], condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition for texts with other letters than ASCII, false for the rest; these do not pay for it."""
    return case((func.octet_length(texts) > func.char_length(texts), condition), else_=false())
