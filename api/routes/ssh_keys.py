"""The caller's SSH keys."""

from typing import Annotated
from urllib.parse import quote

from fastapi import Path, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api import PREFIX
from api.routes import answers, requests, router
from api.web import openapi
from api.web.dependencies import CurrentUser, Process
from api.web.guest_fields import KeyName
from api.web.idempotency import OnceOrTrial, OncePerKey
from api.web.lists import Order
from api.web.pages import WantedPage
from domain.commands import audit
from domain.commands import ssh_keys as commands
from domain.commands.acceptance import Requester
from domain.data import queries
from domain.data.guests import SSHKey
from domain.rules import ssh_keys
from domain.rules.accounts import Event
from domain.rules.errors import NotFoundError

routes = router("/ssh-keys", "sshkeys")

_BY_NAME = Order("name", (SSHKey.name,))
NameInPath = Annotated[KeyName, Path(description="The name of the key.")]


@routes.post(
    "",
    status_code=201,
    response_model=answers.SSHKey,
    responses=openapi.headers(201, "Location"),
    openapi_extra=openapi.problems("name_taken", "quota_exceeded"),
)
async def add_ssh_key(once: OnceOrTrial, body: requests.NewSSHKey) -> Response:
    """Keep a public key, for VMs that you create. A user has at most 100."""
    key = ssh_keys.parse(body.public_key)

    async def add(tx: AsyncConnection, requester: Requester) -> Response:
        added = answers.SSHKey.model_validate(await commands.add_ssh_key(tx, requester, body.name, key))
        await audit.record(tx, Event.ADD_SSH_KEY, requester, target=added.name, fingerprint=added.fingerprint)
        location = {"Location": f"{PREFIX}/ssh-keys/{quote(added.name)}"}
        return Response(added.model_dump_json(), 201, location, "application/json")

    return await once(add, body)


@routes.get("")
async def list_ssh_keys(caller: CurrentUser, page: WantedPage) -> answers.SSHKeyPage:
    """Your SSH keys, by name."""
    return await page.fetch(select(SSHKey).where(SSHKey.owner_id == caller.id), _BY_NAME, answers.SSHKeyPage)


@routes.get("/{name}", response_model=answers.SSHKey)
async def get_ssh_key(caller: CurrentUser, process: Process, name: NameInPath) -> SSHKey:
    """One SSH key."""
    statement = select(SSHKey).where(SSHKey.owner_id == caller.id, SSHKey.name == name)
    async with process.autocommit.connect() as connection:
        key = await queries.fetch_one(connection, statement)
    if key is None:
        raise NotFoundError("SSH key", name)
    return key


@routes.delete("/{name}", status_code=204, response_class=Response)
async def delete_ssh_key(once: OncePerKey, name: NameInPath) -> Response:
    """Forget an SSH key. VMs that were created with it keep it."""

    async def forget(tx: AsyncConnection, requester: Requester) -> Response:
        fingerprint = await commands.delete_ssh_key(tx, requester, name)
        await audit.record(tx, Event.DELETE_SSH_KEY, requester, target=name, fingerprint=fingerprint)
        return Response(status_code=204)

    return await once(forget)
