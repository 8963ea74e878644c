"""The interfaces of VMs in networks."""

from uuid import UUID

from fastapi import Response
from sqlalchemy import Select, select

from api.routes import answers, requests, router
from api.routes.requested_vms import choice_of
from api.routes.resources import OnceOnVM, OnceOrTrialOnVM
from api.web import openapi
from api.web.dependencies import Process, ReadableVM
from api.web.lists import Order
from api.web.pages import WantedPage
from api.web.responses import respond_202, respond_204
from domain.commands import interfaces
from domain.data import queries
from domain.data.models import Interface
from domain.rules.errors import NotFoundError

routes = router("/vms/{vm_id}/interfaces", "interfaces")

_OLDEST_FIRST = Order("created_at", (Interface.created_at, Interface.id))


@routes.post(
    "",
    status_code=202,
    response_model=answers.Interface,
    responses=openapi.headers(202, "Location", "Operation-Location", "Retry-After"),
    openapi_extra=openapi.problems(
        *("invalid_transition", "no_free_address", "unknown_reference", "ambiguous_name"),
        *("invalid_address", "address_in_use", "no_free_device", "quota_exceeded"),
    ),
)
async def attach_interface(once: OnceOrTrialOnVM, vm_id: UUID, body: requests.NewInterface) -> Response:
    """Give a VM an address in a network, a certain one or any. A VM may have several in one, and has at most 64."""
    network = choice_of(body.network, body.network_id, "network")
    return await once(
        lambda tx, requester: respond_202(
            interfaces.attach_interface(tx, requester, vm_id, network, body.ip_address),
            answers.Interface,
            "/vms/{vm_id}/interfaces/{id}",
        ),
        body,
    )


@routes.get("")
async def list_interfaces(page: WantedPage, vm: ReadableVM) -> answers.InterfacePage:
    """The interfaces of a VM, oldest first."""
    return await page.fetch(_interfaces(vm.id), _OLDEST_FIRST, answers.InterfacePage)


@routes.get("/{interface_id}", response_model=answers.Interface)
async def get_interface(process: Process, vm: ReadableVM, interface_id: UUID) -> Interface:
    """One interface."""
    async with process.autocommit.connect() as connection:
        interface = await queries.fetch_one(connection, _interfaces(vm.id).where(Interface.id == interface_id))
    if interface is None:
        raise NotFoundError("interface", interface_id)
    return interface


@routes.delete(
    "/{interface_id}",
    status_code=204,
    response_class=Response,
    responses=openapi.headers(204, "Operation-Location"),
    openapi_extra=openapi.problems("invalid_transition"),
)
async def detach_interface(once: OnceOnVM, vm_id: UUID, interface_id: UUID) -> Response:
    """Detach an interface from a VM and give its address back. A second detach changes nothing."""
    return await once(
        lambda tx, requester: respond_204(interfaces.detach_interface(tx, requester, vm_id, interface_id))
    )


def _interfaces(vm_id: UUID) -> Select[Interface]:
    return select(Interface).where(Interface.vm_id == vm_id)
