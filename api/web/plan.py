"""What a route needs of a request, in an order that is worked out once, when the route is made.

FastAPI works it out anew for each request, which took a third of the processor time of a GET (ADR 060). Routes and
dependencies are declared as for FastAPI, and its own functions read the parameters and report their errors.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fastapi import Request, Response
from fastapi._compat import ModelField, Undefined
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_body_to_args, request_params_to_args
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, QueryParams

Values = dict[str, Any]
Errors = list[Any]
Found = tuple[Values, Errors]
_FAILED: Final = object()


class ReadBody(Protocol):
    """Reads the request's body."""

    async def __call__(self, check: Callable[[Any], Found]) -> Found:
        """Return what `check` makes of the body, None if there is none. Of a large one that may take a second."""


class Optionals:
    """Parameters that a request may lack, such as query parameters: most requests lack all of them."""

    def __init__(self, fields: Sequence[ModelField], nothing: QueryParams | Headers) -> None:
        self.fields = fields
        self._without, self._errors_without = request_params_to_args(fields, nothing)
        self._lists = [name for name, value in self._without.items() if isinstance(value, list)]

    def read(self, values: Values, received: Mapping[str, Any], *, has_any: bool) -> Errors:
        """Add the values to the others; returns the errors. `received` are the parameters, if the request has any."""
        if has_any or self._errors_without:
            found, errors = request_params_to_args(self.fields, received)
            values.update(found)
            return errors
        values.update(self._without)
        for name in self._lists:  # a default that somebody changes would be that of all later requests
            values[name] = values[name].copy()
        return []


@dataclass(frozen=True, slots=True)
class Step:
    """A function to call, and where its parameters come from; `needs` are the numbers of the steps before it."""

    call: Callable[..., Coroutine[Any, Any, Any]]
    needs: Sequence[tuple[str | None, int]]
    path: Sequence[ModelField]
    query: Optionals
    headers: Optionals
    header_names: frozenset[bytes]
    request: str | None
    response: str | None

    async def values(self, asked: "Asked", done: Sequence[Any]) -> Found:
        """What the function is called with, and the errors in the request's parameters."""
        values = {name: done[number] for name, number in self.needs if name}
        request, errors = asked.request, Errors()
        if self.path:
            found, errors = request_params_to_args(self.path, request.path_params)
            values.update(found)
        if self.query.fields:  # if there are none, the query string is not parsed
            errors += self.query.read(values, request.query_params, has_any=asked.has_query)
        if self.header_names:
            has_any = any(name in self.header_names for name, _ in request.scope["headers"])
            errors += self.headers.read(values, request.headers, has_any=has_any)
        if self.request:
            values[self.request] = request
        if self.response:
            values[self.response] = asked.response
        return values, errors


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the headers that dependencies add to its answer."""

    request: Request
    response: Response
    has_query: bool


class Plan:
    """The steps of a route: each dependency once, after those that it needs, and the route's own function last."""

    def __init__(self, dependant: Dependant) -> None:
        self._steps: list[Step] = []
        self._numbers: dict[Callable[..., Any], int] = {}
        self._body = list(dependant.body_params)
        self._add(dependant)

    def _add(self, dependant: Dependant) -> int:
        call = dependant.call
        assert call is not None  # noqa: S101 - only a group of dependencies has none
        if call in self._numbers:
            return self._numbers[call]
        needs = [(each.name, self._add(each)) for each in dependant.dependencies]
        has_own_body = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(call.__call__)  # type: ignore[operator]
        assert has_own_body, f"{call} is no coroutine function"  # noqa: S101 - a blocking one would hold up all requests
        assert not dependant.cookie_params  # noqa: S101 - the API has none
        assert dependant.body_params in ([], self._body)  # noqa: S101 - only the route's own function takes the body
        names = frozenset(field.alias.lower().encode() for field in dependant.header_params)
        self._steps.append(
            Step(
                call,
                needs,
                dependant.path_params,
                Optionals(dependant.query_params, QueryParams("")),
                Optionals(dependant.header_params, Headers({})),
                names,
                dependant.request_param_name or dependant.http_connection_param_name,
                dependant.response_param_name,
            )
        )
        self._numbers[call] = len(self._steps) - 1
        return self._numbers[call]

    async def run(self, request: Request, read_body: ReadBody, response: Response) -> Any:
        """Call the dependencies and then the route's function; returns its answer. RequestValidationError.

        A dependency is called if its own parameters are right, even if others are wrong. So a caller without a token
        gets a 401 in any case, and before its body is parsed, which may be a lot of work.
        """
        asked = Asked(request, response, bool(request.scope["query_string"]))
        done, all_errors = list[Any](), Errors()
        *dependencies, own = self._steps
        for step in dependencies:
            values, errors = await step.values(asked, done)
            all_errors += errors
            fails = errors or any(done[number] is _FAILED for _, number in step.needs)
            done.append(_FAILED if fails else await step.call(**values))
        values, errors = await own.values(asked, done)
        all_errors += errors
        if self._body:
            found, errors = await read_body(self._check_body)
            values.update(found)
            all_errors += errors
        if all_errors:
            raise RequestValidationError(all_errors)
        return await own.call(**values)

    def _check_body(self, body: Any) -> Found:
        received = Undefined if body is None else body
        checking = request_body_to_args(self._body, received, embed_body_fields=False)
        try:
            checking.send(None)
        except StopIteration as end:  # it awaits nothing, because the body is no form
            found: Found = end.value
            return found
        raise AssertionError
