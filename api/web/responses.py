"""The answers to accepted commands: 202 with the resource, or 204 for a delete, and the operation to follow."""

from collections.abc import Awaitable, Sequence
from typing import Any
from uuid import UUID

from fastapi import Response

from api import PREFIX
from api.web.models import Answer
from api.web.problems import RETRY_AFTER
from domain.commands.acceptance import Accepted


async def respond_202(command: Awaitable[Accepted[Any]], shape: type[Answer], location: str | None = None) -> Response:
    """Run the command and answer 202 with its resource.

    `location` is for commands that create a resource: its path below the prefix, with `{field}` for a field's value.
    """
    done = await command
    resource = shape.model_validate(done.resource)
    headers = {**operation_location(done.operation_id), **RETRY_AFTER}
    if location is not None:
        headers["Location"] = PREFIX + location.format_map(vars(resource))
    return Response(resource.model_dump_json(), 202, headers, "application/json")


def respond_202_with_all(done: Sequence[Accepted[Any]], shape: type[Answer]) -> Response:
    """Answer 202 with the resources of several commands in `items`. Each resource names its operation."""
    body = shape.model_validate({"items": [each.resource for each in done]})
    return Response(body.model_dump_json(), 202, RETRY_AFTER, "application/json")


async def respond_204(command: Awaitable[Accepted[Any]]) -> Response:
    """Run the command and answer 204."""
    return Response(status_code=204, headers=operation_location((await command).operation_id))


def operation_location(operation_id: UUID) -> dict[str, str]:
    """The header that names the operation to follow."""
    return {"Operation-Location": f"{PREFIX}/operations/{operation_id}"}
