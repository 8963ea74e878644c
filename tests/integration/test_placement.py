"""A VM with a zone, security groups and wanted addresses, from the request to the mock cloud."""

from typing import Any

from domain.data.seeds import SECURITY_GROUPS
from tests.support.rows import NETWORK_IDS
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import User

DEFAULT, WEB = (str(group["id"]) for group in SECURITY_GROUPS)
BACKEND, EDGE = (str(NETWORK_IDS[name]) for name in ("backend", "edge"))
PORTS = "SELECT ip_address, security_groups FROM mock_cloud.ports WHERE vm_id = $1"


async def create(user: User, ip_address: str, **wishes: Any) -> dict[str, Any]:
    """Create a VM with this address in the smallest network and any in another one."""
    interfaces = [{"network_id": EDGE, "ip_address": ip_address}, {"network_id": BACKEND}]
    body = {"name": "placed", "flavor_id": (await user.flavors())[0], "interfaces": interfaces} | wishes
    answer = await user.request("POST", "/vms", json=body)
    assert answer.status_code == 202, answer.text
    vm: dict[str, Any] = answer.json()
    return vm


async def test_the_cloud_gets_what_was_asked_for_and_gives_it_back(stack: Stack, user: User) -> None:
    vm = await create(user, "10.2.0.9", availability_zone="nova", security_groups=["web", "default"])
    assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
    late = {"network_id": EDGE, "ip_address": "10.2.0.10"}
    attached = await user.request("POST", f"/vms/{vm['id']}/interfaces", json=late)
    assert attached.status_code == 202, attached.text
    await user.until_nothing_open()
    ports = {row["ip_address"]: row["security_groups"] for row in await stack.sql(PORTS, vm["id"])}
    assert (ports.pop("10.2.0.9"), ports.pop("10.2.0.10")) == ([WEB, DEFAULT], [DEFAULT])
    assert list(ports.values()) == [[WEB, DEFAULT]]
    assert await differences(stack) == []
    await user.request("DELETE", f"/vms/{vm['id']}")
    await user.until(vm["id"], "DELETED")
    again = await create(user, "10.2.0.9")
    assert (again["availability_zone"], again["security_groups"]) == (None, None)
    active = await user.until(again["id"], "ACTIVE", "ERROR")
    assert (active["status"], active["availability_zone"], active["security_groups"]) == ("ACTIVE", "nova", None)


async def test_an_address_that_somebody_else_has_in_the_cloud_fails_the_build_and_is_free_again(
    stack: Stack, user: User
) -> None:
    address = "10.2.0.11"
    foreign = "INSERT INTO mock_cloud.ports (vm_id, network_id, ip_address) VALUES (gen_random_uuid(), $1, $2)"
    await stack.sql(foreign, EDGE, address)
    vm = await create(user, address)
    failed = await user.until(vm["id"], "ACTIVE", "ERROR")
    assert (failed["status"], failed["fault"]["code"]) == ("ERROR", "address_in_use")
    assert (await user.read(f"/vms/{vm['id']}/interfaces"))["items"] == []
    assert await stack.sql(PORTS, vm["id"]) == []
    await stack.sql("DELETE FROM mock_cloud.ports WHERE ip_address = $1", address)
    again = await create(user, address)
    assert (await user.until(again["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
