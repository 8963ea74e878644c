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
from sqlalchemy import (
    ARRAY,
    Boolean,
    Integer,
    Text,
    and_,
    case,
    column,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import ColumnElement

from api.web.fields import LABEL_KEY
from api.web.models import FieldError
from api.web.problems import ProblemError
from domain.data.search import Term, in_nfc, of_label
from domain.rules import text

MOST_REQUIREMENTS = 64  # of one request; a resource has no more labels than these

_CHARACTER = r"[^,\\\x00-\x1f\x7f-\x9f]"
_ESCAPE = r"\\[,\\()=]"
# Possessive: the spaces after a value are not tried again and again as parts of it. JSON Schema knows no such thing.
_VALUE = f"(?:{_CHARACTER}|{_ESCAPE}){{0,255}}+"
_ITEM = f"(?:(?![()]){_CHARACTER}|{_ESCAPE}){{0,255}}"
# Kubernetes also writes == for =. So a value that begins with = must say that it does.
_SIGN = "(?:==|!=|=)(?! *=)"
_REQUIREMENT = (
    f" *(?:! *(?P<absent>{LABEL_KEY})|(?P<key>{LABEL_KEY})(?: *(?P<sign>{_SIGN})(?P<value>{_VALUE})"
    rf"| +(?P<word>in|notin) *\((?P<items>(?! *\)){_ITEM}(?:,{_ITEM})*)\))?) *"
)
_NEXT: Final = re.compile(rf"{_REQUIREMENT}(?P<end>,|\Z)")
_WITHOUT_NAMES = re.sub(r"\?P<\w+>", "?:", _REQUIREMENT).replace("}+", "}")  # nor named groups
_PATTERN = f"^{_WITHOUT_NAMES}(?:,{_WITHOUT_NAMES})*$"
_ITEMS: Final = re.compile(r"(?:\A|,)((?:[^,\\]|\\.)*)")  # a backslash takes away the meaning of a comma after it
_HOW_TO_WRITE = (
    "Write key, !key, key=value, key!=value, key in (a,b) or key notin (a,b), separated by commas. "
    r"In a value, write \, for a comma, \( and \) for parentheses, \= for an equals sign at the beginning "
    r"and \\ for a backslash."
)
_LONGEST_QUOTE = 40  # characters
_LONGEST_FORM = 4  # times the bytes of a text in NFC; Unicode says that no other form of it takes more than three


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
    # The requirements are bind parameters, always the same three, so the statement is the same for any selector. With a
    # condition for each, SQLAlchemy and asyncpg would compile and cache one statement for each combination. The planner
    # also cannot look into a subquery. It would expect too few rows from `labels @> ...`, and read the whole table.
    absent = [each.key for each in requirements if each.values is None and each.negated]
    present = [each.key for each in requirements if each.values is None and not each.negated]
    # Long labels are kept outside of the row, and each use of the column fetches all of them. `||` has fetched them,
    # and OFFSET keeps the planner from putting it in the place of the column that it makes.
    fetched = select(labels.concat(literal({}, JSONB)).label("labels")).correlate(labels.class_).offset(0)
    own = type_coerce(fetched.subquery("fetched").c.labels, JSONB)
    have_keys = and_(not_(own.has_any(_texts(absent))), own.has_all(_texts(present)))
    return select(and_(have_keys, _have_values(own, requirements))).correlate(labels.class_).scalar_subquery()


def _texts(values: list[str]) -> ColumnElement[list[str]]:
    return literal(values, ARRAY(Text))


def _have_values(labels: ColumnElement[Any], requirements: Iterable[Requirement]) -> ColumnElement[bool]:
    """Whether the labels meet those of the requirements that name values."""
    required = (
        func.jsonb_to_recordset(literal([_as_json(each) for each in requirements if each.values is not None], JSONB))
        .table_valued(
            column("key", Text), column("among", JSONB), column("longest", Integer), column("negated", Boolean)
        )
        .render_derived(name="required", with_types=True)
    )
    among = required.c.among
    value = labels[required.c.key].astext
    # Labels are stored in NFC. Those of early VMs are as they were sent, in any form of their letters. To look for
    # these costs much more than all the rest, so it is left out where no form could be so long.
    in_other_letters = and_(
        func.octet_length(value) <= required.c.longest, func.octet_length(value) > func.char_length(value)
    )
    in_other_form = case((in_other_letters, among.has_key(in_nfc(value))), else_=false())
    is_among = func.coalesce(or_(among.has_key(value), in_other_form), false())
    all_met = select(func.bool_and(is_among != required.c.negated)).select_from(required)
    return func.coalesce(all_met.correlate_except(required).scalar_subquery(), true())


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
    among = dict.fromkeys(_forms(requirement.values or ()))
    longest = _LONGEST_FORM * max(len(value.encode()) for value in among)
    return {"key": requirement.key, "among": among, "longest": longest, "negated": requirement.negated}
