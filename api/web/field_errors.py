"""Turns what pydantic finds in a request into the items of a problem's `errors`, with codes of our own."""

import re
from collections.abc import Sequence
from typing import Any, get_args
from urllib.parse import quote

from pydantic_core.core_schema import ErrorType

from api.web.models import FieldError

MAX_ERRORS = 20  # in one problem; nobody reads more, and the caller may make any number of them
LONGEST_NAME = 64  # characters of a name that the caller chose; it may have any length

_CODES = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "model_attributes_type": "wrong_type",
    "dict_type": "wrong_type",
    "list_type": "wrong_type",
    "string_type": "wrong_type",
    "bool_type": "wrong_type",
    "int_type": "wrong_type",
    "int_parsing": "wrong_type",
    "int_from_float": "wrong_type",
    "uuid_type": "wrong_type",
    "uuid_parsing": "wrong_format",
    "datetime_parsing": "wrong_format",
    "datetime_from_date_parsing": "wrong_format",
    "string_pattern_mismatch": "wrong_format",
    "string_unicode": "wrong_format",
    "invalid_key": "wrong_format",
    "literal_error": "unknown_value",
    "enum": "unknown_value",
    "string_too_short": "too_short",
    "string_too_long": "too_long",
    "too_short": "too_short",
    "too_long": "too_long",
    "greater_than_equal": "too_small",
    "less_than_equal": "too_large",
    "int_parsing_size": "too_large",
}
# Pydantic's own texts for these speak of Python.
_DETAILS = {
    "missing": "This is required.",
    "extra_forbidden": "There is no such field.",
    "model_attributes_type": "Send a JSON object.",
    "dict_type": "Send a JSON object.",
    "list_type": "Send a JSON array.",
    "string_unicode": "The text has one half of a surrogate pair without the other.",
    "invalid_key": "The name has one half of a surrogate pair without the other.",
}
_MEMBER = re.compile(r"<\w+\.\w+: ('[^']*')>")  # of an enum, as pydantic shows one that is in a Literal
_LIBRARY_TYPES = frozenset(get_args(ErrorType))


def from_pydantic(issue: dict[str, Any]) -> FieldError:
    """The item of `errors` for one of pydantic's errors."""
    where, *rest = issue["loc"]
    kind: str = issue["type"]
    # A type that is not pydantic's is a code of ours, from a validator of ours.
    code = _CODES.get(kind, "invalid" if kind in _LIBRARY_TYPES else kind)
    detail = _DETAILS.get(kind) or _MEMBER.sub(r"\1", issue["msg"]).rstrip(".") + "."
    if where == "body":
        # pydantic adds "[key]" if the key itself is invalid.
        return FieldError(code=code, detail=detail, pointer=_pointer([step for step in rest if step != "[key]"]))
    if where == "header":
        return FieldError(code=code, detail=detail, header=str(rest[0]))
    return FieldError(code=code, detail=detail, parameter=str(rest[0]))


def _pointer(steps: Sequence[str | int]) -> str:
    return "/".join(["#", *map(_escape, steps)])


def _escape(step: str | int) -> str:
    """One step of a JSON pointer in a URI fragment (RFC 6901, section 6)."""
    name = str(step)[:LONGEST_NAME].replace("~", "~0").replace("/", "~1")
    return quote(name, safe="~")
