"""The class of every route: what a request has to be before FastAPI reads it."""

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from api import PREFIX
from api.web import query
from api.web.json_body import JsonRequest
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
        if "{" not in path:
            self.literal_paths.add(path)

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
        if self.path.startswith(_ANY_QUERY):
            return super().get_route_handler()
        known = KnownParameters(self.dependant)

        async def check_query(request: Request) -> None:
            known.check(request)

        # The last of the dependencies, so that a caller without a valid token gets a 401 and learns nothing else.
        self.dependant.dependencies.append(Dependant(call=check_query, request_param_name="request"))
        answer = super().get_route_handler()
        reads_body = self.body_field is not None

        async def handle(request: Request) -> Response:
            query.check_length(request)  # FastAPI reads the parameters before any dependency runs
            if reads_body:
                request = JsonRequest(request.scope, request.receive)
                await request.parse()
            return await answer(request)

        return handle
