"""Every route with every role: who is let in, who is refused, and for whom the resource does not exist.

The routes come from the OpenAPI document, so a new one takes part. One that fits no rule here fails the test.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.projects import ProjectMember
from domain.rules import accounts
from domain.rules.access import ALLOWED, ProjectRole, Verb
from domain.rules.resources import AttachmentStatus
from domain.rules.states import Action, OperationStatus
from domain.settings import Settings
from tests.api.conftest import Person, client_of, person
from tests.api.test_program_tokens import make
from tests.api.vm_resources import attached_to, snapshot_of, vm_of
from tests.support.rows import FLAVOR_IDS, add_interface, add_operation, add_volume
from tests.support.ssh_keys import ED25519

PROJECT_KEYS = {"vm_id", "volume_id", "snapshot_id", "interface_id", "operation_id", "project_id", "username"}
OWN_KEYS = {
    "token_id",
    "name",
    "flavor_id",
    "image_id",
    "network_id",
    "group_id",
}  # of the user alone, or of the catalogue
ADMIN_KEYS = {"server_id"}


ENDS_LOGINS = {"/auth/logout", "/auth/logout-all"}  # of who asks
_numbers = count(1)


class Outcome(StrEnum):
    """What a request meets."""

    LET_IN = "let in"
    UNKNOWN = "401"
    FORBIDDEN = "403"
    MISSING = "404"


@dataclass(frozen=True)
class Route:
    """One operation of the OpenAPI document."""

    method: str
    path: str
    is_open: bool

    @property
    def keys(self) -> set[str]:
        """The parameters of the path."""
        return set(re.findall(r"\{(\w+)\}", self.path))

    @property
    def verb(self) -> Verb:
        """What the route does with a project or with what belongs to it."""
        if self.method == "GET":
            return Verb.READ
        return Verb.MANAGE if self.path.startswith("/projects/") else Verb.CHANGE

    def expected(self, role: str) -> Outcome:
        """What a caller with this role is to meet."""
        assert self.keys <= PROJECT_KEYS | OWN_KEYS | ADMIN_KEYS, f"say who may use {self.path}"
        if self.is_open or role == "anonymous":
            return Outcome.LET_IN if self.is_open else Outcome.UNKNOWN
        if role == "reading program" and self.method != "GET":
            return Outcome.FORBIDDEN
        if self.path.startswith("/admin/"):
            return Outcome.LET_IN if role == "admin" else Outcome.FORBIDDEN
        if not self.keys & PROJECT_KEYS:
            return Outcome.LET_IN
        if role in {"stranger", "admin"}:
            return Outcome.MISSING
        may = ALLOWED[ProjectRole.OWNER if role == "reading program" else ProjectRole(role)]
        return Outcome.LET_IN if self.verb in may else Outcome.FORBIDDEN


BODIES: dict[str, Any] = {
    "POST /auth/register": {"username": "frank", "email": "frank@example.com", "password": "Correct-Horse-1"},
    "POST /auth/login": {"username": "nobody", "password": "Correct-Horse-1"},
    "POST /auth/refresh": {"refresh_token": "none"},
    "POST /vms": {"name": "web-1", "flavor_id": str(FLAVOR_IDS["m1.small"])},
    "POST /vms/batch": {"vms": [{"name": "web-1", "flavor_id": str(FLAVOR_IDS["m1.small"])}]},
    "PATCH /vms/{vm_id}": {"name": "web-2"},
    "POST /vms/{vm_id}/actions/resize": {"flavor_id": str(FLAVOR_IDS["m1.medium"])},
    "POST /vms/{vm_id}/snapshots": {"name": "before"},
    "PATCH /snapshots/{snapshot_id}": {"name": "before"},
    "POST /volumes": {"name": "data", "size_gb": 1},
    "PATCH /volumes/{volume_id}": {"name": "data"},
    "POST /volumes/{volume_id}/actions/extend": {"size_gb": 100},
    "POST /vms/{vm_id}/volumes": {"volume_id": "{free_volume_id}"},
    "POST /vms/{vm_id}/interfaces": {"network": "backend"},
    "POST /ssh-keys": {"name": "laptop", "public_key": ED25519},
    "POST /tokens": {"name": "robot", "scopes": ["read"]},
    "POST /projects": {"name": "web-shop"},
    "PUT /projects/{project_id}/members/{username}": {"role": "reader"},
    "POST /auth/password": {"current_password": "Wrong-Horse-1", "new_password": "Other-Horse-12"},
    "POST /admin/users/{username}/role": {"role": "user"},
    "POST /admin/vms/{vm_id}/reset-state": {"status": "ERROR"},
    "POST /admin/servers/{server_id}/adopt": {"username": "ada"},
    "PUT /admin/projects/{project_id}/quotas": {"vms": 5},
}


def routes_of(app: FastAPI) -> list[Route]:
    """All routes of the document."""
    return [
        Route(method.upper(), path.removeprefix("/api/v1"), not operation["security"])
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    ]


async def resources(engine: AsyncEngine, owner: Person) -> dict[str, str]:
    """One resource of each kind, new, in the owner's project, and values for the other parameters of paths."""
    vm = await vm_of(owner, engine)
    volume, _ = await attached_to(vm, owner, engine)
    snapshot = await snapshot_of(vm, engine)
    async with engine.begin() as tx:
        address = f"10.0.{next(_numbers)}.9"
        interface = await add_interface(tx, vm, address, status=AttachmentStatus.ATTACHED)
        free = await add_volume(tx, owner.user)
        operation = await add_operation(tx, vm, Action.STOP, status=OperationStatus.QUEUED)
    ids: dict[str, UUID] = {
        "vm_id": vm.id,
        "volume_id": volume.id,
        "snapshot_id": snapshot.id,
        "interface_id": interface.id,
        "operation_id": operation.id,
        "project_id": owner.user.id,
        "free_volume_id": free.id,
        "server_id": UUID(int=1),
    }
    return {name: str(id) for name, id in ids.items()} | {"username": "guest", "name": "laptop"}


async def outcome_of(client: httpx.AsyncClient, route: Route, values: dict[str, str]) -> Outcome:
    """What the request meets."""
    body = json.dumps(BODIES.get(f"{route.method} {route.path}"))
    for name, value in values.items():
        body = body.replace(f"{{{name}}}", value)
    path = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], str(UUID(int=1))), route.path)
    if route.path.endswith("/events"):
        return await outcome_of_stream(client, path)
    content = {} if body == "null" else {"content": body, "headers": {"Content-Type": "application/json"}}
    answer = await client.request(route.method, path, **content)  # type: ignore[arg-type]
    code = answer.json()["code"] if answer.status_code >= 400 else ""
    is_about_project = bool(route.keys & PROJECT_KEYS)
    assert code not in {"internal_error", "validation_failed", "malformed_body"} or not is_about_project, answer.text
    if code in {"unauthenticated", "insufficient_scope", "admin_only", "forbidden"}:
        return Outcome.UNKNOWN if code == "unauthenticated" else Outcome.FORBIDDEN
    is_missing = code == "not_found" and is_about_project and not route.path.startswith("/admin/")
    return Outcome.MISSING if is_missing else Outcome.LET_IN


async def outcome_of_stream(client: httpx.AsyncClient, path: str) -> Outcome:
    """What a request meets whose answer does not end."""
    request = client.build_request("GET", path)
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {"type": "http", "method": "GET", "path": request.url.path, "raw_path": request.url.raw_path}
    scope |= {"query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http"}
    messages = asyncio.Queue[Any]()
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    status = asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.set_result(message["status"])

    app = client._transport.app  # type: ignore[attr-defined] # the client has no other way to show it
    serving = asyncio.create_task(app(scope, messages.get, send))
    outcome = {200: Outcome.LET_IN, 401: Outcome.UNKNOWN, 404: Outcome.MISSING}[await status]
    messages.put_nowait({"type": "http.disconnect"})
    await serving
    return outcome


async def test_every_route_lets_in_whom_its_role_allows_and_nobody_else(
    app: FastAPI, engine: AsyncEngine, settings: Settings
) -> None:
    owner, reader, operator, stranger, guest = [
        await person(app, engine, settings, name) for name in ("owner", "reader", "operator", "stranger", "guest")
    ]
    admin = await person(app, engine, settings, "root", accounts.Role.ADMIN)
    async with engine.begin() as tx:
        for member, role in (
            (reader, ProjectRole.READER),
            (operator, ProjectRole.OPERATOR),
            (guest, ProjectRole.READER),
        ):
            row = {"project_id": owner.user.id, "user_id": member.user.id, "role": role}
            await tx.execute(insert(ProjectMember).values(row))
    program = client_of(app, await make(owner.http, "robot", "read"))
    clients = {
        "anonymous": client_of(app),
        "stranger": stranger.http,
        "admin": admin.http,
        "reader": reader.http,
        "reading program": program,
        "operator": operator.http,
        "owner": owner.http,
    }
    wrong, pairs = [], 0
    routes = [route for route in routes_of(app) if route.path not in ENDS_LOGINS]
    # Those that end a membership come last.
    values = await resources(engine, owner)
    for route in sorted(routes, key=lambda route: (route.verb is Verb.MANAGE, route.path, route.method)):
        for caller, client in clients.items():
            if caller in {"operator", "owner"} and route.verb is not Verb.READ:
                values = await resources(engine, owner)  # those before may have changed the others
            expected, found = route.expected(caller), await outcome_of(client, route, values)
            pairs += 1
            if found is not expected:
                wrong.append(f"{route.method} {route.path} as {caller}: {found} instead of {expected}")
    assert wrong == []
    assert pairs == len(routes) * len(clients)
