"""Label selectors, as Kubernetes has them: `env=prod,tier in (a,b),!x` is parsed into requirements, then into SQL."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final
from unicodedata import normalize

from fastapi import Query
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from sqlalchemy import Boolean, Text, case, column, false, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import ColumnElement

from api.web.fields import LABEL_KEY
from api.web.models import FieldError
from api.web.problems import ProblemError
from domain.data.search import Term, of_label
from domain.rules import text

MOST_REQUIREMENTS = 64  # of one request; a resource has no more labels than these

_CHARACTER = r"[^,\\\x00-\x1f\x7f-\x9f]"
_ESCAPE = r"\\[,\\()=]"
_VALUE = f"(?:{_CHARACTER}|{_ESCAPE}){{0,255}}"
_ITEM = f"(?:(?![()]){_CHARACTER}|{_ESCAPE}){{0,255}}"
# Kubernetes also writes == for =. So a value that begins with = must say that it does.
_SIGN = "(?:==|!=|=)(?! *=)"
_REQUIREMENT = (
    f" *(?:! *(?P<absent>{LABEL_KEY})|(?P<key>{LABEL_KEY})(?: *(?P<sign>{_SIGN})(?P<value>{_VALUE})"
    rf"| +(?P<word>in|notin) *\((?P<items>(?! *\)){_ITEM}(?:,{_ITEM})*)\))?) *"
)
_NEXT: Final = re.compile(rf"{_REQUIREMENT}(?P<end>,|\Z)")
_WITHOUT_NAMES = re.sub(r"\?P<\w+>", "?:", _REQUIREMENT)  # JSON Schema has no named groups
_PATTERN = f"^{_WITHOUT_NAMES}(?:,{_WITHOUT_NAMES})*$"
_ITEMS: Final = re.compile(r"(?:\A|,)((?:[^,\\]|\\.)*)")  # a backslash takes away the meaning of a comma after it
_HOW_TO_WRITE = (
    "Write key, !key, key=value, key!=value, key in (a,b) or key notin (a,b), separated by commas. "
    r"In a value, write \, for a comma, \( and \) for parentheses, \= for an equals sign at the beginning "
    r"and \\ for a backslash."
)
_LONGEST_QUOTE = 40  # characters


@dataclass(frozen=True, slots=True)
class Requirement:
    """The label `key` exists and has one of the values, or any if `values` is None; the opposite if `negated`."""

    key: str
    values: frozenset[str] | None = None
    negated: bool = False


class LabelSelector:
    """The requirements of one query parameter; a resource must meet them all."""

    def __init__(self, requirements: Iterable[Requirement]) -> None:
        self.requirements = frozenset(requirements)

    @classmethod
    def parse(cls, selector: str) -> "LabelSelector":
        """Parse a selector; PydanticCustomError if it is none."""
        return cls(_requirements(selector))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls.parse, handler(str))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": _PATTERN}


LabelSelectors = Annotated[
    list[LabelSelector],
    Query(
        description="Selects by labels: `key=value`, `key!=value`, `key in (a,b)`, `key notin (a,b)`, `key` for any "
        "value, `!key` for no such label. `!=` and `notin` also select what lacks the label. Several requirements, "
        "separated by commas or in repeated parameters, must all be met. In a value, write `\\,` for a comma, `\\(` "
        "and `\\)` for parentheses, `\\=` for an equals sign at its beginning and `\\\\` for a backslash.",
        examples=[["env=prod,tier in (a,b),!legacy"]],
    ),
]


def has_labels(labels: InstrumentedAttribute[dict[str, str]], selectors: list[LabelSelector]) -> ColumnElement[bool]:
    """Whether the labels of a row meet all requirements of the selectors; ProblemError if these are too many."""
    requirements = frozenset[Requirement]().union(*(selector.requirements for selector in selectors))
    if len(requirements) > MOST_REQUIREMENTS:
        detail = f"A request has at most {MOST_REQUIREMENTS} requirements for labels."
        errors = [FieldError(code="too_long", detail=detail, parameter="labels")]
        raise ProblemError("validation_failed", detail, errors)
    # All requirements are one bind parameter, so the statement is the same for any selector. With a condition for each,
    # SQLAlchemy and asyncpg would compile and cache one statement for each combination. The planner also cannot look
    # into a subquery with an aggregate. It would expect too few rows from `labels @> ...`, and read the whole table.
    required = (
        func.jsonb_to_recordset(literal([_as_json(each) for each in requirements], JSONB))
        .table_valued(column("key", Text), column("among", JSONB), column("negated", Boolean))
        .render_derived(name="required", with_types=True)
    )
    key, among, negated = required.c.key, required.c.among, required.c.negated
    # Labels are stored in NFC. Those of early VMs are as they were sent, in any form of their letters.
    value = labels[key].astext
    is_ascii = func.octet_length(value) == func.char_length(value)
    is_among = among.has_key(case((is_ascii, value), else_=func.normalize(value)))
    is_met = case((among.is_(None), labels.has_key(key)), else_=func.coalesce(is_among, false()))
    all_met = select(func.bool_and(is_met != negated)).select_from(required)
    return all_met.correlate_except(required).scalar_subquery()


def terms(selectors: list[LabelSelector]) -> Iterator[Term]:
    """The terms that all resources have whose labels meet the selectors; see `domain/data/search.py`."""
    for requirement in frozenset[Requirement]().union(*(selector.requirements for selector in selectors)):
        if not requirement.negated:
            values = requirement.values
            yield of_label(requirement.key, None if values is None else _forms(values))


def _requirements(selector: str) -> Iterator[Requirement]:
    position, end = 0, ","
    while end:
        found = _NEXT.match(selector, position)
        if found is None:
            rest = selector[position : position + _LONGEST_QUOTE]
            context = {"rest": repr(rest), "how": _HOW_TO_WRITE}
            raise PydanticCustomError("wrong_format", "There is no label selector at {rest}. {how}", context)
        yield _requirement(found)
        position, end = found.end(), found["end"]


def _requirement(found: re.Match[str]) -> Requirement:
    if found["absent"]:
        return Requirement(found["absent"], negated=True)
    if found["sign"]:
        return Requirement(found["key"], frozenset([_unescaped(found["value"])]), found["sign"] == "!=")
    if found["word"]:
        items = map(_unescaped, _ITEMS.findall(found["items"]))
        return Requirement(found["key"], frozenset(items), found["word"] == "notin")
    return Requirement(found["key"])


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value)


def _forms(values: Iterable[str]) -> Iterator[str]:
    """The forms that labels with these values have in the database."""
    for value in values:
        yield from {normalize("NFC", value), text.tidy(value)}


def _as_json(requirement: Requirement) -> dict[str, Any]:
    # The values are the keys of an object, because PostgreSQL finds a key in an object faster than a text in an array.
    # Labels have no white space around them, except those of early VMs.
    among = None if requirement.values is None else dict.fromkeys(_forms(requirement.values))
    return {"key": requirement.key, "among": among, "negated": requirement.negated}
