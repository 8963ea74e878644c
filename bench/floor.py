"""The floor: what a good engineer would write by hand in a day, to compare the API with. See ADR 059.

`python -m bench.floor` serves the database of DATABASE_URL at API_PORT, with the API's own HTTP server. It has no
middleware, no operations that survive a crash, no idempotency keys, no ETags and no limits. Each request is answered in
several ways, each with a little more of the work, so that the differences tell what costs how much:

- `/constant/NAME`: bytes that were put there before. This is the server and the framework.
- `/token/NAME`: the same, and the token is verified.
- `/vms`, `/vms/ID`: the same rows are read or written with asyncpg. **This is what the API is compared with.**
- `/lean/vms`, `/lean/vms/ID`: no model and no reset of the connection; PostgreSQL makes the JSON. Nobody writes a
  service like this: it shows where the end is.
"""

import contextlib
import gc
import json
import secrets
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import asyncpg
import jwt
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from api.server.serve import serve
from bench import floor_sql
from domain.data.database import SERVER_SETTINGS
from domain.settings import Settings, load_settings

PREFIX: Final = "/api/v1"
PAGE_SIZE: Final = 20
ALLOWED: Final = {"BUILDING": ["delete"]}
_EMPTY: Final = (
    *("previous_flavor_id", "fault", "confirm_by", "launched_at", "snapshot_id", "boot_volume_id"),
    *("availability_zone", "security_groups"),
)
bodies: dict[str, bytes] = {}
settings = load_settings()
JSON = "application/json"


class VM(BaseModel):
    """A VM as the API shows it."""

    id: UUID
    project_id: UUID
    name: str
    status: str
    task_state: str | None
    flavor_id: UUID
    flavor: dict[str, Any]
    previous_flavor_id: UUID | None
    image_id: UUID
    addresses: list[dict[str, Any]]
    volumes: list[dict[str, Any]]
    labels: dict[str, str]
    fault: dict[str, Any] | None
    operation_id: UUID
    confirm_by: datetime | None
    launched_at: datetime | None
    snapshot_id: UUID | None
    boot_volume_id: UUID | None
    availability_zone: str | None
    security_groups: list[str] | None
    created_at: datetime
    updated_at: datetime
    allowed_actions: list[str]


class Page(BaseModel):
    """A page of VMs as the API shows it."""

    items: list[VM]
    total: int
    total_is_exact: bool
    page: int
    page_size: int
    pages: int
    next_cursor: str | None
    items_moved: bool
    next_changes_since: datetime


class NewVM(BaseModel):
    """The VM to create."""

    name: str = Field(min_length=1, max_length=255)
    flavor_id: UUID
    labels: dict[str, str] = {}


class Caller(BaseModel):
    """The user that the token names."""

    id: UUID
    username: str


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open as many connections as the API has, with the same settings."""
    url, size = settings.database_url.replace("+asyncpg", ""), settings.db_pool_size + settings.db_max_overflow
    options = {"min_size": size, "max_size": size, "server_settings": SERVER_SETTINGS, "init": _read_json}
    lean = options | {"min_size": 0, "reset": _keep}
    async with (
        asyncpg.create_pool(url, **options) as app.state.pool,
        asyncpg.create_pool(url, **lean) as app.state.lean,
    ):
        yield


async def _read_json(connection: asyncpg.Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def _keep(_: asyncpg.Connection) -> None:
    """Leave the connection as it is; asyncpg would send a statement that resets it."""


app = FastAPI(lifespan=lifespan)
_bearer = HTTPBearer()


async def caller(credentials: Annotated[HTTPAuthorizationCredentials, Depends(_bearer)]) -> Caller:
    """The user of a valid token."""
    assert settings.secret_key  # noqa: S101 - the API would not start without it either
    try:
        claims = jwt.decode(credentials.credentials, settings.secret_key.get_secret_value(), [settings.algorithm])
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    return Caller(id=claims["sub"], username=claims["username"])


User = Annotated[Caller, Depends(caller)]


@app.get(f"{PREFIX}/health/live")
async def is_live() -> str:
    """Say that the floor is there."""
    return "ok"


@app.put("/constant/{name}")
async def put_constant(name: str, request: Request) -> None:
    """Keep the body as a constant."""
    bodies[name] = await request.body()


@app.get("/constant/{name}")
async def constant(name: str) -> Response:
    """The constant."""
    return Response(bodies[name], media_type=JSON)


@app.post("/constant/{name}")
async def constant_for_body(name: str, new: NewVM) -> Response:  # noqa: ARG001 - it is parsed
    """The constant, once the body is parsed."""
    return Response(bodies[name], 202, media_type=JSON)


@app.get("/token/{name}")
async def token(name: str, user: User) -> Response:  # noqa: ARG001 - it is verified
    """The constant for a user."""
    return Response(bodies[name], media_type=JSON)


@app.post("/token/{name}")
async def token_for_body(name: str, new: NewVM, user: User) -> Response:  # noqa: ARG001
    """The constant for a user, once the body is parsed."""
    return Response(bodies[name], 202, media_type=JSON)


@app.get(f"{PREFIX}/vms")
async def list_vms(user: User) -> Response:
    """The first page of the user's VMs."""
    rows = await app.state.pool.fetch(floor_sql.PAGE, user.id, PAGE_SIZE + 1)
    total = rows[0]["total"] if rows else 0
    page = Page(
        items=[_vm(row) for row in rows[:PAGE_SIZE]],
        total=total,
        total_is_exact=True,
        page=1,
        page_size=PAGE_SIZE,
        pages=-(-total // PAGE_SIZE),
        next_cursor=None,
        items_moved=False,
        next_changes_since=datetime.now().astimezone(),
    )
    return Response(page.model_dump_json(), media_type=JSON)


@app.get(f"{PREFIX}/vms/{{vm_id}}")
async def get_vm(vm_id: UUID, user: User) -> Response:
    """A VM of the user or of one of the user's projects."""
    row = await app.state.pool.fetchrow(floor_sql.ONE, vm_id, user.id)
    if row is None:
        raise HTTPException(404)
    return Response(_vm(row).model_dump_json(), media_type=JSON)


def _vm(row: asyncpg.Record) -> VM:
    return VM(**row, allowed_actions=ALLOWED[row["status"]])


@app.post(f"{PREFIX}/vms")
async def create_vm(new: NewVM, user: User) -> Response:
    """Record a new VM with an interface, its operation, and what the project uses."""
    async with app.state.pool.acquire() as connection:
        return await _create(connection, new, user)


@app.get("/lean/vms")
async def list_vms_lean(user: User) -> Response:
    """The first page, made by PostgreSQL."""
    return Response(await app.state.lean.fetchval(floor_sql.PAGE_AS_JSON, user.id, PAGE_SIZE + 1), media_type=JSON)


@app.get("/lean/vms/{vm_id}")
async def get_vm_lean(vm_id: UUID, user: User) -> Response:
    """A VM, made by PostgreSQL."""
    body = await app.state.lean.fetchval(floor_sql.ONE_AS_JSON, vm_id, user.id)
    if body is None:
        raise HTTPException(404)
    return Response(body, media_type=JSON)


@app.post("/lean/vms")
async def create_vm_lean(new: NewVM, user: User) -> Response:
    """Create a VM on a connection that nobody resets."""
    async with app.state.lean.acquire() as connection:
        return await _create(connection, new, user)


async def _create(connection: asyncpg.Connection, new: NewVM, user: Caller) -> Response:
    while True:
        with contextlib.suppress(asyncpg.UniqueViolationError):  # another request has taken the address
            return await _try_to_create(connection, new, user)


async def _try_to_create(connection: asyncpg.Connection, new: NewVM, user: Caller) -> Response:
    offers = await connection.fetchrow(floor_sql.OFFERS, new.flavor_id)
    if offers is None or offers["size_gb"] > offers["disk_gb"]:
        raise HTTPException(422)
    vm_id, operation_id, network_id = uuid4(), uuid4(), str(offers["network_id"])
    mac_address = "fa:16:3e:" + secrets.token_bytes(3).hex(":")
    parameters = {"name": new.name, "image_id": str(offers["image_id"]), "flavor_id": str(new.flavor_id)}
    created_at = await connection.fetchval(
        floor_sql.CREATE,
        *(user.id, vm_id, new.name, new.flavor_id, offers["image_id"], new.labels, network_id),
        *(offers["ip_address"], mac_address, offers["vcpus"], offers["ram_mb"], operation_id, user.username),
        *(parameters | {"network_ids": [network_id]}, str(uuid4())),
    )
    if created_at is None:
        raise HTTPException(403)
    names = ("name", "vcpus", "ram_mb", "disk_gb")
    vm = VM(
        id=vm_id,
        project_id=user.id,
        name=new.name,
        status="BUILDING",
        task_state="scheduling",
        flavor_id=new.flavor_id,
        flavor={"id": str(new.flavor_id)} | {name: offers[name] for name in names},
        addresses=[
            {name: offers[name] for name in ("network_id", "network", "ip_address")} | {"mac_address": mac_address}
        ],
        volumes=[],
        image_id=offers["image_id"],
        labels=new.labels,
        operation_id=operation_id,
        created_at=created_at,
        updated_at=created_at,
        allowed_actions=ALLOWED["BUILDING"],
        **dict.fromkeys(_EMPTY),
    )
    headers = {"Location": f"{PREFIX}/vms/{vm_id}", "Operation-Location": f"{PREFIX}/operations/{operation_id}"}
    return Response(vm.model_dump_json(), 202, headers | {"Retry-After": "1"}, JSON)


def main(settings: Settings) -> None:
    """Serve until SIGTERM, as the API does."""
    gc.collect()
    gc.freeze()
    serve(app, settings)


if __name__ == "__main__":
    main(settings)
