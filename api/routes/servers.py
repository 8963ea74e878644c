"""For admins: the servers in the cloud, and how one becomes a VM that belongs to none."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import openapi
from api.web.dependencies import Admin
from api.web.idempotency import OnceOrTrial
from api.web.lists import Order
from api.web.models import Answer, Page
from api.web.pages import WantedPage
from api.web.responses import respond_202
from domain.commands import audit
from domain.commands.acceptance import Requester
from domain.commands.adopt import adopt_server as adopt
from domain.rules.accounts import Event
from domain.upkeep import servers

routes = router("/admin", "admin")

_SERVERS_BY_NAME = Order("name/id", (servers.NAME, servers.ID))
Managed = Annotated[
    bool | None, Query(description="Only those of VMs (true), or only those that belong to no VM (false).")
]


class CloudVolume(Answer):
    """A volume of a server; `size_gb` is in GiB. With `delete_on_termination` the cloud deletes both together."""

    id: UUID
    name: str
    size_gb: int
    device: str | None
    delete_on_termination: bool


class CloudInterface(Answer):
    """A port of a server; `network_id` may be one that is in no list of networks."""

    id: UUID
    network_id: UUID
    ip_address: str | None
    mac_address: str


class CloudServer(Answer):
    """A server of the cloud. `id` is the cloud's.

    If it is `managed`, it is the server of the VM `vm_id`, which also has its volumes and interfaces: null here.
    If not, `vm_id` is the id that its VM would have, `owner` is null, and `obstacle` says why it cannot be adopted, or
    is null. `status` is that of the VM, or else Nova's. `created_at` is when the VM was created, or else the server.
    """

    id: UUID
    name: str
    status: str
    managed: bool
    vm_id: UUID
    owner: str | None
    flavor: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    image_id: UUID | None
    volumes: list[CloudVolume] | None
    interfaces: list[CloudInterface] | None
    obstacle: str | None
    created_at: datetime


class CloudServerPage(Page[CloudServer]):
    """Servers of the cloud."""


@routes.get("/servers", openapi_extra=openapi.problems("admin_only"))
async def list_servers(_: Admin, page: WantedPage, managed: Managed = None) -> CloudServerPage:
    """The servers in the cloud's project, by name: those of VMs, and those that belong to no VM.

    The latter are as a worker saw them last, at most about a minute ago.
    """
    statement = servers.SERVERS if managed is None else servers.SERVERS.where(servers.MANAGED.is_(managed))
    return await page.fetch(statement, _SERVERS_BY_NAME, CloudServerPage)


@routes.post(
    "/servers/{server_id}/adopt",
    status_code=202,
    response_model=answers.VM,
    responses=openapi.headers(202, "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems("admin_only", "not_adoptable", "unknown_reference"),
)
async def adopt_server(_: Admin, once: OnceOrTrial, server_id: UUID, body: requests.Adoption) -> Response:
    """Make a server that belongs to no VM a VM of a project, with its volumes and interfaces.

    Nothing changes in the cloud. `server_id` is the cloud's id. The operation has already succeeded.
    """
    owner = body.project_id or body.username
    assert owner is not None  # noqa: S101 - the body has one of the two

    async def adopt_and_record(tx: AsyncConnection, requester: Requester) -> Response:
        answer = await respond_202(adopt(tx, requester, server_id, owner), answers.VM)
        await audit.record(tx, Event.ADOPT_SERVER, requester, target=str(server_id), owner=str(owner))
        return answer

    return await once(adopt_and_record, body)
