"""The class of every route: what a request has to be before FastAPI reads it."""

from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import ResponseValidationError
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from api import PREFIX
from api.web import json_body, query
from api.web.plan import Plan
from api.web.query import KnownParameters

_ANY_QUERY = (f"{PREFIX}/health", f"{PREFIX}/codec")


class Endpoint(APIRoute):
    """A route that reads bodies with our JSON parser and refuses unknown query parameters.

    Health checks take any query, because monitors add one against caches. So does the codec: Temporal's tools
    decide what they send to it.
    """

    literal_paths: ClassVar[set[str]] = set()  # the paths of all endpoints that have no parameters

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._serve
        if "{" not in path:
            self.literal_paths.add(path)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Errors go to Starlette's middleware, which has the handlers. FastAPI's own function for this keeps stacks for
        # dependencies that are generators, and there are none.
        response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for this route.

        A path that another endpoint has literally is never an id: with a method that it does not have, /vms/batch is a
        405, and not the VM "batch".
        """
        if self.path not in self.literal_paths and scope["path"] in self.literal_paths:
            return Match.NONE, {}
        return super().matches(scope)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers requests to this route; called once, when the route is made."""
        takes_any_query = self.path.startswith(_ANY_QUERY)
        if not takes_any_query:
            known = KnownParameters(self.dependant)

            async def check_query(request: Request) -> None:
                known.check(request)

            # The last of the dependencies, so that a caller without a valid token gets a 401 and learns nothing else.
            self.dependant.dependencies.append(Dependant(call=check_query, request_param_name="request"))
        plan = Plan(self.dependant)

        async def handle(request: Request) -> Response:
            if not takes_any_query:
                query.check_length(request)  # the parameters are read before they are checked
            added = Response()
            answer = await plan.run(request, partial(json_body.read, request), added)
            return answer if isinstance(answer, Response) else self._rendered(answer, added)

        self._answer = handle
        return handle

    def _rendered(self, answer: Any, added: Response) -> Response:
        """The answer's body, with the headers that dependencies have added."""
        field, body = self.response_field, None
        if field is not None:  # a 204 has none
            value, errors = field.validate(answer, {}, loc=("response",))
            if errors:
                raise ResponseValidationError(errors, body=answer)
            body = field.serialize_json(value, by_alias=True)
        rendered = Response(body, self.status_code or HTTPStatus.OK, media_type="application/json")
        rendered.headers.raw.extend(header for header in added.headers.raw if header[0] != b"content-length")
        return rendered
