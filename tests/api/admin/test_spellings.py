"""What admins name, and what earlier versions recorded, is found in every spelling of its letters."""

from uuid import uuid4

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.audit import AuditEvent
from domain.data.models import Flavor, Network
from domain.rules.states import Action
from tests.api.admin.test_retry import failed_operation
from tests.api.admin.test_servers import add_found, adopt
from tests.api.conftest import Person

NFC, NFD = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"


async def test_a_retry_finds_the_network_that_was_recorded_in_the_clouds_spelling(
    root: Person, ada: Person, engine: AsyncEngine
) -> None:
    """By an earlier version, which recorded no id and kept the names as the cloud had them."""
    async with engine.begin() as tx:
        await tx.execute(update(Network).where(Network.name == "edge").values(name=NFC))
    failed = await failed_operation(ada, engine, Action.ATTACH_INTERFACE, input={"network": f"{NFD} "})
    answer = await root.http.post(f"/admin/operations/{failed.id}/retry")
    assert answer.status_code == 202, answer.text


async def test_an_adopted_server_gets_the_flavor_of_its_name(ada: Person, root: Person, engine: AsyncEngine) -> None:
    size = {"vcpus": 3, "ram_mb": 2048, "disk_gb": 20}
    flavors = {name: uuid4() for name in ("a", NFC)}
    async with engine.begin() as tx:
        await tx.execute(insert(Flavor).values([{"id": id, "name": name, **size} for name, id in flavors.items()]))
    id = await add_found(engine, flavor=NFD, vcpus=3)
    assert (await adopt(root, id)).status_code == 202
    assert (await ada.http.get(f"/vms/{id}")).json()["flavor_id"] == str(flavors[NFC])


@pytest.mark.parametrize("sent", [NFC, NFD], ids=["NFC", "NFD"])
async def test_the_audit_finds_a_token_by_its_name(root: Person, ada: Person, engine: AsyncEngine, sent: str) -> None:
    assert (await ada.http.post("/tokens", json={"name": NFD, "scopes": ["read"]})).status_code == 201
    async with engine.connect() as connection:
        assert list(await connection.scalars(select(AuditEvent.target))) == [NFC]
    assert (await root.http.get("/admin/audit", params={"target": sent})).json()["total"] == 1
