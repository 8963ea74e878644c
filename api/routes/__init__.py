"""The endpoints, a module per resource."""

from operator import attrgetter

from fastapi import APIRouter

from api import PREFIX
from api.web.endpoint import Endpoint


def router(path: str, tag: str) -> APIRouter:
    """A router for the endpoints below `path`. OpenAPI, and so generated clients, name each by its function."""
    name = attrgetter("name")
    return APIRouter(prefix=f"{PREFIX}{path}", tags=[tag], generate_unique_id_function=name, route_class=Endpoint)
