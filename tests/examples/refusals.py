"""A request for every problem, to an API that no worker serves and that has no Temporal."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import asyncpg
import jwt
from fastapi import FastAPI
from sqlalchemy import func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background.provider_keys import ProviderKeys
from api.web import pages
from api.web.dependencies import ProcessState
from api.web.logins import Logins
from api.web.oidc import IdentityProvider
from api.web.problems import MAX_BODY
from api.web.rate_limits import Counted, Limit, RateLimitedError
from api.web.slots import NoSlotError, Slots
from domain.data import advisory_locks
from domain.data.accounts import User
from domain.data.cloud import FoundServer
from domain.data.identities import Identity
from domain.data.models import Flavor
from domain.data.queries import insert_row
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.admin.test_servers import add_found
from tests.api.conftest import Person
from tests.api.networks import fill_edge
from tests.examples.recorder import Recording
from tests.examples.tour import ACCOUNT, NEW_PASSWORD, Guest
from tests.support import identity_provider
from tests.support.rows import (
    FLAVOR_IDS,
    IMAGE_IDS,
    NETWORK_IDS,
    add_attachment,
    add_interface,
    add_operation,
    add_user,
    add_vm,
    add_volume,
)
from tests.support.ssh_keys import ED25519

UNKNOWN = "00000000-0000-4000-8000-000000000000"
_KEYS = text("""
INSERT INTO ssh_keys (owner_id, name, type, public_key, fingerprint)
SELECT :owner, 'key-' || number, 'ssh-ed25519', '', '' FROM generate_series(1, :count) AS number
""")
JSON = {"Content-Type": "application/json"}
_WEB = {"name": "web-1", "flavor_id": str(FLAVOR_IDS["m1.small"])}


async def form(ada: Guest) -> None:
    """Requests of a wrong form."""
    http = ada.http
    await http.post("/vms", content=b'{"name": "web-1",}', headers=JSON)
    await http.post("/vms", content=b" " * (MAX_BODY + 1), headers=JSON)
    await http.post("/vms", content=b"{}", headers=JSON | {"Content-Encoding": "gzip"})
    await http.post("/vms", content=b"name=web-1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    await http.post("/vms", json={"name": "", "flavor_id": "m1.small", "lables": {}})
    await http.put("/vms")
    await http.get("/vms", params={"name": "x" * 9000})
    await http.get("/vms", params={"colour": "red"})
    await http.get("/vms", params={"cursor": "abc"})
    preflight = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    await http.options("/vms", headers=preflight)


@contextlib.contextmanager
def _provider_that_is_away(app: FastAPI) -> Iterator[None]:
    """Let the application name an identity provider that does not answer."""
    process: ProcessState = app.state.vmapi
    keys = ProviderKeys("http://127.0.0.1:1")
    provider = IdentityProvider(process.settings, keys, process.engine, process.autocommit, process.epochs)
    with patch.object(app.state, "vmapi", replace(process, provider=provider)):
        yield


async def callers(app: FastAPI, recording: Recording, ada: Guest, engine: AsyncEngine) -> None:
    """Callers who may not do what they ask for, and requests that are repeated."""
    anyone = Guest.of(app, recording).http
    await anyone.get("/vms")
    await Guest.of(app, recording, "not-a-token").http.get("/vms")
    await ada.http.get("/admin/attention")
    with _provider_that_is_away(app):
        await Guest.of(app, recording, jwt.encode({}, identity_provider.key().private, "RS256", {"kid": "1"})).http.get(
            "/vms"
        )
    for change in ({"email": "ada.2@example.com"}, {"username": "ada-2"}):
        await anyone.post("/auth/register", json=ACCOUNT | change)
    wrong = {"username": "ada", "password": "Wrong-Horse-1"}
    await anyone.post("/auth/login", json=wrong)
    await ada.http.post("/auth/password", json={"current_password": "Wrong-Horse-1", "new_password": NEW_PASSWORD})
    process: ProcessState = app.state.vmapi
    closed = replace(process, settings=process.settings.model_copy(update={"registration": "closed"}))
    with patch.object(app.state, "vmapi", closed):
        await anyone.post("/auth/register", json=ACCOUNT)
    for disabled_at in (func.now(), None):
        async with engine.begin() as tx:
            await tx.execute(update(User).where(User.username == "ada").values(disabled_at=disabled_at))
        await anyone.post("/auth/login", json={"username": "ada", "password": NEW_PASSWORD})
    with patch.object(Logins, "delay", return_value=8.0):  # seconds; the real delay depends on how long hashing takes
        await anyone.post("/auth/login", json=wrong)
    for scope in ("read", "write"):
        body: dict[str, Any] = {"name": f"robot-{scope}", "scopes": [scope]}
        robot = Guest.of(app, recording, (await ada.quiet.post("/tokens", json=body)).json()["token"])
        await robot.http.post("/vms" if scope == "read" else "/auth/logout", json=_WEB)
    with patch("api.background.changes.MOST_WAITS", 0):
        await ada.http.get(f"/operations?id={UNKNOWN}&wait=1")
    key = {"Idempotency-Key": "create-web-1"}
    async with engine.begin() as other:
        owner = await other.scalar(select(User.id).where(User.username == "ada"))
        scope = f"{owner} POST /api/v1/vms {key['Idempotency-Key']}"
        await other.execute(select(func.pg_advisory_xact_lock(advisory_locks.number_of(literal(scope)))))
        await ada.http.post("/vms", json=_WEB, headers=key)
    for body in (_WEB, _WEB | {"name": "web-2"}):
        await ada.http.post("/vms", json=body, headers=key)
    key_of_ada = {"name": "laptop-2", "public_key": ED25519}
    for _ in range(2):
        await ada.http.post("/ssh-keys", json=key_of_ada)
    async with engine.begin() as tx:
        await tx.execute(_KEYS, {"owner": owner, "count": 99})
    await ada.http.post("/ssh-keys", json=key_of_ada | {"name": "laptop-3"})


async def references(ada: Guest, engine: AsyncEngine, owner: Person) -> None:
    """Bodies that do not fit to what there is."""
    create = ada.http.post
    await ada.http.get(f"/vms/{UNKNOWN}")
    await create("/vms", json=_WEB | {"flavor_id": UNKNOWN})
    await create("/vms", json=_WEB | {"flavor_id": str(FLAVOR_IDS["m1.tiny"]), "image_id": str(IMAGE_IDS["debian-12"])})
    async with engine.begin() as tx:
        for _ in range(2):
            flavor = {"name": "m1.double", "vcpus": 1, "ram_mb": 512, "disk_gb": 1, "id": uuid4()}
            await tx.execute(insert(Flavor).values(flavor))
    await create("/vms", json={"name": "web-1", "flavor": "m1.double"})
    await create("/vms", json=_WEB | {"user_data": "#" * 50_000})
    await create("/volumes", json={"name": "root", "size_gb": 1, "image_id": str(IMAGE_IDS["debian-12"])})
    vm = await fill_edge(owner, engine)
    path = f"/vms/{vm.id}"
    async with engine.begin() as tx:
        volume = await add_volume(tx, owner.user)
        await add_interface(tx, vm, "10.1.0.17", network="backend")
    await create("/vms", json=_WEB | {"boot_volume": {"volume_id": str(volume.id)}})
    await create(f"{path}/actions/resize", json={"flavor_id": str(FLAVOR_IDS["m1.small"])})
    await create(f"{path}/interfaces", json={"network_id": str(NETWORK_IDS["edge"])})
    for address in ("10.9.0.17", "10.1.0.17"):
        await create(f"{path}/interfaces", json={"network_id": str(NETWORK_IDS["backend"]), "ip_address": address})


async def states(ada: Guest, root: Guest, engine: AsyncEngine, owner: User) -> None:
    """Resources whose state does not allow what is asked for."""
    async with engine.begin() as tx:
        idle = await add_vm(tx, owner, name="db-1")
        building = await add_vm(tx, owner, status=Status.BUILDING, task_state=TaskState.SPAWNING, launched=False)
        full = await add_vm(tx, owner, name="db-2")
        volumes = [await add_volume(tx, owner, status=VolumeStatus.IN_USE) for _ in range(25)]
        for number, each in enumerate(volumes):
            await add_attachment(tx, full, each, device=f"/dev/vd{chr(ord('b') + number)}")
        spare, root_volume = [await add_volume(tx, owner) for _ in range(2)]
        booted = await add_vm(tx, owner, name="db-3", boot_volume_id=root_volume.id)
        await add_attachment(tx, booted, root_volume, device="/dev/vda")
        done = await add_operation(tx, idle, Action.START, status=OperationStatus.SUCCEEDED)
        busy = await add_vm(tx, owner, name="db-4", attaching=1)
        await add_attachment(tx, busy, spare, status=AttachmentStatus.ATTACHING)
        free = await add_volume(tx, owner)
    await ada.http.post(f"/vms/{idle.id}/actions/start")
    await ada.http.delete(f"/vms/{idle.id}", headers={"If-Match": '"4d1f0c9f7a6b2e8d3c5a9b10"'})
    await ada.http.get(f"/vms/{building.id}/console-log")
    await ada.http.get(f"/vms/{idle.id}/console-log")
    await ada.http.post(f"/vms/{full.id}/volumes", json={"volume_id": str(free.id)})
    await ada.http.delete(f"/vms/{booted.id}/volumes/{root_volume.id}")
    await ada.http.post(f"/vms/{booted.id}/snapshots", json={"name": "before-upgrade"})
    await ada.http.post(f"/vms/{busy.id}/actions/resize", json={"flavor_id": str(FLAVOR_IDS["m1.medium"])})
    await ada.http.post(f"/operations/{done.id}/cancel")
    await root.http.post(f"/admin/operations/{done.id}/retry")


async def projects(ada: Guest, root: Guest) -> None:
    """What a role does not allow, and projects that need an owner or have something."""
    project = (await ada.quiet.post("/projects", json={"name": "web-shop"})).json()["id"]
    await ada.quiet.put(f"/projects/{project}/members/root", json={"role": "reader"})
    await ada.quiet.post("/volumes", json={"name": "data", "size_gb": 1, "project_id": project})
    await root.http.post("/volumes", json={"name": "data", "size_gb": 1, "project_id": project})
    await ada.http.put(f"/projects/{project}/members/ada", json={"role": "reader"})
    await ada.http.delete(f"/projects/{project}")
    await root.http.get(f"/admin/projects/{project}/quotas")
    await root.http.put(f"/admin/projects/{project}/quotas", json={"volumes": 1})
    await ada.http.post("/volumes", json={"name": "data-2", "size_gb": 1, "project_id": project})


async def _users(app: FastAPI, root: Guest, engine: AsyncEngine) -> None:
    """Users and what was done to them."""
    async with engine.begin() as tx:
        await add_user(tx, "edith")
    root.http.headers["User-Agent"] = "curl/8.5.0"
    await root.http.get("/admin/users")
    for action in ("disable", "enable"):
        await root.http.post(f"/admin/users/edith/{action}")
    await root.http.post("/admin/users/edith/role", json={"role": "admin"})
    await root.quiet.post("/admin/users/edith/role", json={"role": "user"})
    await root.http.post("/admin/users/root/role", json={"role": "user"})
    async with engine.begin() as tx:  # another one, because two users of the same moment have no order
        foreign = await add_user(tx, "frances")
        await insert_row(tx, Identity, issuer="https://login.example.com", subject="7", user_id=foreign.id)
    process: ProcessState = app.state.vmapi
    provided = replace(process, settings=process.settings.model_copy(update={"oidc_role_claim": "groups"}))
    with patch.object(app.state, "vmapi", provided):
        await root.http.post("/admin/users/frances/role", json={"role": "admin"})
    await root.http.get("/admin/audit", params={"target": "edith", "event": "disable_user"})


async def admins(app: FastAPI, ada: Guest, root: Guest, engine: AsyncEngine, owner: User) -> None:
    """What only admins can ask for, and a cancel."""
    fault = {"code": "server_gone", "message": "The cloud no longer has the server."}
    async with engine.begin() as tx:
        broken = await add_vm(tx, owner, name="db-6", status=Status.ERROR, fault=fault)
        idle = await add_vm(tx, owner, name="db-7")
        failed = await add_operation(tx, idle, Action.STOP, status=OperationStatus.FAILED)
        await add_operation(tx, broken, Action.REBOOT_HARD, status=OperationStatus.FAILED, error=fault)
    await root.http.get("/admin/attention")
    await _users(app, root, engine)
    await root.http.post(f"/admin/operations/{failed.id}/retry")
    await root.http.post(f"/admin/vms/{broken.id}/reset-state", json={"status": "SHUTOFF"})
    found = await add_found(engine, "legacy-1")
    await root.http.get("/admin/servers", params={"managed": "false"})
    async with engine.begin() as tx:
        await tx.execute(update(FoundServer).values(obstacle="It boots from a volume."))
    await root.http.post(f"/admin/servers/{found}/adopt", json={"username": "ada"})
    async with engine.begin() as tx:
        await tx.execute(update(FoundServer).values(obstacle=None))
    await root.http.post(f"/admin/servers/{found}/adopt", json={"username": "ada"})
    async with engine.begin() as tx:
        admin = await tx.scalar(select(User.id).where(User.username == "root"))
        await tx.execute(_KEYS, {"owner": admin, "count": 10_001})
    await root.http.get("/ssh-keys", params={"page": 501})
    created = (await ada.quiet.post("/vms", json=_WEB)).json()
    await ada.http.post(f"/operations/{created['operation_id']}/cancel")


async def service(app: FastAPI, recording: Recording, ada: Guest) -> None:
    """A service that cannot answer: too many requests, no database, a bug, the end of the process."""
    used_up = RateLimitedError(Limit("user-reads", quota=30_000, cost=0.01), retry_after=1)
    with patch.object(Counted, "count", side_effect=used_up):
        await ada.http.get("/vms")
    for code in ("too_many_requests", "overloaded"):
        with patch.object(Slots, "acquire", side_effect=NoSlotError(code)):
            await ada.http.get("/vms")
    with patch.object(Slots, "acquire", side_effect=asyncio.CancelledError):
        await ada.http.post("/vms", json=_WEB)
    with patch.object(pages, "LIST_LIMIT", 0):
        await ada.http.get("/volumes", params={"labels": "!env"})
    with patch.object(asyncpg.Connection, "prepare", side_effect=asyncpg.InternalClientError("closed")):
        await ada.http.get("/vms")
    anyone = Guest.of(app, recording).http
    await anyone.get("/health/ready")
    with patch.object(app.state, "vmapi", None):
        await anyone.get("/health")
