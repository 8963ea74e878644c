"""Services of a real OpenStack are away during builds: `python -m tests.openstack.outages [SECONDS] [BUILDS]`.

Keystone, then Nova's API, then Neutron is killed for SECONDS, 120 by default, just after BUILDS VMs were asked for, 10
by default. All must become ACTIVE, and the project must have exactly what the database says. About ten minutes. On
errors the exit code is 1 and the last lines list them.
"""

import asyncio
import json
import re
import time
from collections import Counter

from bench.usage import table
from tests.openstack.cloud.services import DAEMONS
from tests.openstack.drill import numbers, run_drill, until_equal, until_listed
from tests.openstack.truth import Project
from tests.support.stack import Stack
from tests.support.users import RetryingUser, log_in_retrying
from tests.support.waiting import poll

SERVICES = ("keystone", "nova-api", "neutron-server")
HEAD_START = 4.0  # seconds for the builds before the service goes away
RECOVERY = 600.0  # seconds after which the builds should have ended
ENDS = """
SELECT operations.id, vms.status, operations.error, operations.created_at, operations.finished_at FROM operations
JOIN vms ON vms.id = operations.vm_id WHERE operations.action = 'create' AND vms.name = $1"""
SEEN = "SELECT last_error FROM operations WHERE last_error IS NOT NULL AND finished_at IS NULL"


async def build_meanwhile(
    stack: Stack, user: RetryingUser, service: str, seconds: float, builds: int
) -> tuple[tuple[object, ...], list[str]]:
    """Build VMs while a service is away; returns a row of the table, and the errors."""
    daemon, flavor, name = DAEMONS[service], (await user.flavors())[0], f"without-{service}"
    for _ in range(builds):
        answer = await user.change("POST", "/vms", {"name": name, "flavor_id": flavor})
        assert answer.status_code == 202, answer.text
    await asyncio.sleep(HEAD_START)
    daemon.kill()
    try:
        await asyncio.sleep(seconds / 2)
        seen = Counter(re.sub(r"\d+", "#", str(row["last_error"])) for row in await stack.sql(SEEN))
        await asyncio.sleep(seconds / 2)
    finally:
        daemon.start()
    back = time.monotonic()
    path = "/operations?status=QUEUED,RUNNING"
    await poll(lambda: user.read(path), lambda page: page["total"] == 0, deadline=RECOVERY, interval=0.5)
    recovered = time.monotonic() - back
    rows = await stack.sql(ENDS, name)
    durations = sorted((row["finished_at"] - row["created_at"]).total_seconds() for row in rows)
    active = sum(row["status"] == "ACTIVE" for row in rows)
    errors = [f"{service}: {row['status']} {json.loads(row['error'] or '{}')}" for row in rows if row["error"]]
    if active != builds:
        errors.append(f"{service} away: {active} of {builds} are ACTIVE")
    table("what the builds showed meanwhile", "times", rows=seen.items())
    return (service, f"{active} of {builds}", durations[0], durations[-1], recovered), errors


async def run(stack: Stack, before: Project, seconds: float, builds: int) -> list[str]:
    """Take one service away after the other; returns the errors."""
    rows, errors = [], list[str]()
    async with log_in_retrying(stack.url, "user") as user:
        await until_listed(user)
        for service in SERVICES:
            row, found = await build_meanwhile(stack, user, service, seconds, builds)
            _, different = await until_equal(stack, before)
            rows.append((*row, len(different)))
            errors += found + different
        columns = ("away", "ACTIVE", "shortest s", "longest s", "s after it was back", "differences")
        table(*columns, rows=rows)
        for vm in (await user.read("/vms?page_size=100"))["items"]:
            await user.request("DELETE", f"/vms/{vm['id']}")
        await user.until_nothing_open()
    return errors


def main() -> None:
    """Run the drill."""
    seconds, builds = numbers(120, 10)
    run_drill(lambda stack, before: run(stack, before, seconds, builds))


if __name__ == "__main__":
    main()
