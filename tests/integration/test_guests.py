"""Keys and user data from the request to the guest, on real processes with the mock cloud."""

from typing import Any

from tests.support.ssh_keys import new_key
from tests.support.stack import Stack
from tests.support.users import User, operation_id

SCRIPT = "#!/bin/sh\necho jürgen was here\n"


async def log_of(user: User, vm_id: str) -> list[str]:
    """The lines that the VM's console has shown."""
    log: dict[str, Any] = await user.read(f"/vms/{vm_id}/console-log")
    lines: list[str] = log["output"].split("\n")
    return lines


async def test_a_guest_gets_keys_and_user_data_and_keeps_them_until_its_end(stack: Stack, user: User) -> None:
    key = new_key("ada@laptop")
    await user.request("POST", "/ssh-keys", json={"name": "laptop", "public_key": key})
    body = {"name": "web-1", "flavor_id": (await user.flavors())[0], "ssh_keys": ["laptop"], "user_data": SCRIPT}
    vm = (await user.request("POST", "/vms", json=body)).json()
    await user.request("DELETE", "/ssh-keys/laptop")
    assert (await user.request("GET", f"/vms/{vm['id']}/console-log")).json()["code"] == "no_console"
    assert (await user.until(vm["id"], "ACTIVE", "ERROR"))["status"] == "ACTIVE"
    shown = {"echo jürgen was here", f'  - "{key}"'}
    assert shown <= set(await log_of(user, vm["id"]))
    snapshots = f"/vms/{vm['id']}/snapshots"
    taken = await user.request("POST", snapshots, json={"name": "before"})
    await user.until_status(operation_id(taken), "SUCCEEDED")
    restored = await user.request("POST", f"{snapshots}/{taken.json()['id']}/restore")
    await user.until_status(operation_id(restored), "SUCCEEDED")
    assert shown <= set(await log_of(user, vm["id"]))
    await user.request("DELETE", f"/vms/{vm['id']}")
    await user.until(vm["id"], "DELETED")
    rows = await stack.sql("SELECT (SELECT count(*) FROM user_data) + (SELECT count(*) FROM console_answers) AS number")
    assert rows[0]["number"] == 0
