"""Services of a real cloud are away during builds: `python -m tests.openstack.outages [SECONDS] [BUILDS] [CASE ...]`.

A service is killed for SECONDS, 120 by default, while BUILDS VMs are asked for, 10 by default. OUTAGES has the cases,
all of which run if none is named. All VMs must become ACTIVE, and the project must have exactly what the database says.
About a quarter of an hour. On errors the exit code is 1 and the last lines list them.
"""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass

from bench.usage import table
from tests.openstack.cloud.services import DAEMONS
from tests.openstack.drill import run_drill, until_equal, until_listed
from tests.openstack.truth import Project
from tests.support.stack import Stack
from tests.support.users import RetryingUser, log_in_retrying
from tests.support.waiting import poll

RECOVERY = 600.0  # seconds after which the builds should have ended
ENDS = """
SELECT operations.id, vms.status, operations.error, operations.created_at, operations.finished_at FROM operations
JOIN vms ON vms.id = operations.vm_id WHERE operations.action = 'create' AND vms.name = $1"""
SEEN = "SELECT last_error FROM operations WHERE last_error IS NOT NULL AND finished_at IS NULL"
OPEN = "SELECT count(*) FROM operations WHERE finished_at IS NULL"


@dataclass(frozen=True)
class Outage:
    """A service that is away.

    The builds are asked for `head_start` seconds before it goes, or just after that without a head start. What
    `forgets` is killed and started again as soon as the service is away: nova-api, which would know for minutes whose
    tokens are right, or our worker, which has one.
    """

    name: str
    service: str
    head_start: float | None = 4.0
    forgets: str = ""


OUTAGES = (
    Outage("keystone", "keystone", forgets="nova-api"),
    Outage("keystone-before", "keystone", None, "nova-api"),
    Outage("keystone-new-worker", "keystone", None, "worker"),
    Outage("nova-api", "nova-api"),
    Outage("neutron", "neutron-server"),
)


async def ask(user: RetryingUser, name: str, builds: int) -> None:
    """Ask for VMs of this name."""
    flavor = (await user.flavors())[0]
    for _ in range(builds):
        answer = await user.change("POST", "/vms", {"name": name, "flavor_id": flavor})
        assert answer.status_code == 202, answer.text


def restart(stack: Stack, part: str) -> None:
    """Kill a part of our stack, which its supervisor starts again, or a service of the cloud."""
    if part in DAEMONS:
        DAEMONS[part].kill()
        DAEMONS[part].start()
    elif part:
        stack.kill(part)


async def build_meanwhile(
    stack: Stack, user: RetryingUser, outage: Outage, seconds: float, builds: int
) -> tuple[tuple[object, ...], list[str]]:
    """Build VMs while a service is away; returns a row of the table, and the errors."""
    daemon, name = DAEMONS[outage.service], f"without-{outage.name}"
    if outage.head_start is not None:
        await ask(user, name, builds)
        await asyncio.sleep(outage.head_start)
    daemon.kill()
    try:
        restart(stack, outage.forgets)
        if outage.head_start is None:
            await ask(user, name, builds)
        await asyncio.sleep(seconds / 2)
        seen = Counter(re.sub(r"req-[0-9a-f-]+|\d+", "#", str(row["last_error"])) for row in await stack.sql(SEEN))
        await asyncio.sleep(seconds / 2)
        ((in_flight,),) = await stack.sql(OPEN)
    finally:
        daemon.start()
    back = time.monotonic()
    path = "/operations?status=QUEUED,RUNNING"
    await poll(lambda: user.read(path), lambda page: page["total"] == 0, deadline=RECOVERY, interval=0.5)
    recovered = time.monotonic() - back
    rows = await stack.sql(ENDS, name)
    durations = sorted((row["finished_at"] - row["created_at"]).total_seconds() for row in rows)
    active = sum(row["status"] == "ACTIVE" for row in rows)
    errors = [f"{outage.name}: {row['status']} {json.loads(row['error'] or '{}')}" for row in rows if row["error"]]
    if active != builds:
        errors.append(f"{outage.name} away: {active} of {builds} are ACTIVE")
    table("what the builds showed meanwhile", "times", rows=seen.items())
    return (outage.name, in_flight, f"{active} of {builds}", durations[0], durations[-1], recovered), errors


async def run(stack: Stack, before: Project, seconds: float, builds: int, names: list[str]) -> list[str]:
    """Take one service away after the other; returns the errors."""
    rows, errors = [], list[str]()
    async with log_in_retrying(stack.url, "user") as user:
        await until_listed(user)
        for outage in OUTAGES:
            if names and outage.name not in names:
                continue
            row, found = await build_meanwhile(stack, user, outage, seconds, builds)
            _, different = await until_equal(stack, before)
            rows.append((*row, len(different)))
            errors += found + different
        columns = ("away", "open at the end", "ACTIVE", "shortest s", "longest s", "s after it was back", "differences")
        table(*columns, rows=rows)
        for vm in (await user.read("/vms?page_size=100"))["items"]:
            await user.request("DELETE", f"/vms/{vm['id']}")
        await user.until_nothing_open()
    return errors


def main() -> None:
    """Run the drill."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    seconds, builds = [*numbers, *(120, 10)[len(numbers) :]]
    names = [word for word in sys.argv[1:] if not word.isdecimal()]
    run_drill(lambda stack, before: run(stack, before, seconds, builds, names))


if __name__ == "__main__":
    main()
