"""Refuses query parameters that a path does not have. A filter that is mistyped must never mean "everything"."""

import difflib
from collections.abc import Iterator
from itertools import islice
from typing import get_origin
from urllib.parse import unquote_to_bytes

from fastapi.dependencies.models import Dependant
from starlette.requests import Request

from api.web.field_errors import LONGEST_NAME, MAX_ERRORS
from api.web.models import FieldError
from api.web.problems import ProblemError

MAX_QUERY = 8 * 1024  # bytes; a page's longest name filter, label filter and cursor together are shorter

_REPLACEMENT = "\ufffd"  # what a decoder writes in the place of bytes that are not UTF-8


class KnownParameters:
    """The query parameters of one path, read from the declaration that FastAPI reads, so that none can be missing."""

    def __init__(self, dependant: Dependant) -> None:
        self._is_repeatable = dict(_declared(dependant))

    def check(self, request: Request) -> None:
        """ProblemError if a parameter is unknown, empty, not UTF-8, or repeated although it has one value."""
        if not request.scope["query_string"]:
            return
        decodes = _is_utf_8(request.scope["query_string"])
        errors = list(islice(self._errors(request.query_params.multi_items(), decodes=decodes), MAX_ERRORS + 1))
        if errors:
            code = "unknown_parameter" if any(e.code == "unknown_parameter" for e in errors) else "validation_failed"
            raise ProblemError(code, errors[0].detail, errors)

    def _errors(self, parameters: list[tuple[str, str]], *, decodes: bool) -> Iterator[FieldError]:
        seen = set[str]()
        for name, value in parameters:
            if name not in self._is_repeatable:
                if name not in seen:
                    yield self._unknown(name[:LONGEST_NAME])
            elif name in seen and not self._is_repeatable[name]:
                yield FieldError(code="repeated_parameter", detail=f"Give `{name}` once.", parameter=name)
            elif not value:
                detail = f"`{name}` is empty. Give it a value, or leave it out."
                yield FieldError(code="empty_parameter", detail=detail, parameter=name)
            elif not decodes and _REPLACEMENT in value:
                detail = f"`{name}` is not UTF-8. Write for example é as %C3%A9."
                yield FieldError(code="wrong_format", detail=detail, parameter=name)
            seen.add(name)

    def _unknown(self, name: str) -> FieldError:
        near = difflib.get_close_matches(name.lower(), self._is_repeatable, 1)
        hint = "This path has no query parameters."
        if near:
            hint = f"Did you mean `{near[0]}`?"
        elif self._is_repeatable:
            hint = f"The query parameters of this path are: {', '.join(sorted(self._is_repeatable))}."
        detail = f"There is no query parameter `{name}`. {hint}"
        return FieldError(code="unknown_parameter", detail=detail, parameter=name)


def check_length(request: Request) -> None:
    """ProblemError if the query string is too long to be read."""
    if len(request.scope["query_string"]) > MAX_QUERY:
        raise ProblemError("query_too_long", f"A query string has at most {MAX_QUERY} bytes.")


def _is_utf_8(query: bytes) -> bool:
    if b"%" not in query:
        return True
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        return False
    return True


def _declared(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """The name of each parameter, and whether it takes several values."""
    for field in dependant.query_params:
        yield field.alias, get_origin(field.field_info.annotation) is list
    for dependency in dependant.dependencies:
        yield from _declared(dependency)
