"""Random requests on a real OpenStack while processes are killed: `python -m tests.openstack.kills [COUNT] [SEED]`.

Some users ask for COUNT operations of every kind, 200 by default, while `kill -9` hits the worker, the API, the hosts,
Nova's API and RabbitMQ, drawn by SEED. An operator resets what a lost message has left busy, after some minutes. Then
every operation must have ended with a reason, and the project must have exactly what the database says. At last
everything is deleted, and the project must be empty. About a quarter of an hour on two cores. On errors the exit code
is 1 and the last lines list them.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from openstack.connection import Connection

from activities.backends.openstack.slow import VOLUME_WORK
from bench.usage import table
from tests.faults.schedule import step
from tests.faults.schedule_checks import RetryingWalker, open_operations, owner_of
from tests.openstack import logins
from tests.openstack.cloud.layout import HOSTS
from tests.openstack.cloud.services import DAEMONS
from tests.openstack.drill import numbers, run_drill, say, until_equal, until_listed
from tests.openstack.truth import Project
from tests.support.random_walk import MAX_VMS, Step
from tests.support.stack import Stack
from tests.support.users import RetryingUser, log_in_retrying

USERS = 6
OURS = ("worker", "api")
COMPUTES = tuple(f"nova-{host}" for host in HOSTS)
TARGETS = ("worker",) * 3 + ("api",) * 3 + COMPUTES * 2 + ("nova-api",) * 2 + ("rabbitmq",) * 2
PAUSE, OUTAGE = (12.0, 36.0), (0.0, 4.0)  # seconds between two kills, and until a daemon of the cloud is started again
WAITS = 0.7  # the share of requests after which the user waits
PATIENCE = 45.0  # seconds for which a user waits for an operation before the next request
LARGEST_RAM = 100_000  # MB; the cloud has a flavor that fits no host
STUCK = timedelta(seconds=150)  # the age of a state after which the operator takes it for lost
END = 40 * 60.0  # seconds for the operations to end
OPERATIONS = "SELECT * FROM operations ORDER BY created_at"
CALLS = """
SELECT verb, count(*) AS sent, count(*) FILTER (WHERE attempt > 1) AS again,
       count(*) FILTER (WHERE outcome = 'ambiguous') AS lost FROM openstack_cloud.calls GROUP BY verb ORDER BY verb"""


class Visitor(RetryingWalker):
    """A user who sends random requests, and who creates new VMs for those that were deleted."""

    async def take(self, step: Step) -> None:
        """Send one request and check its answer."""
        living = [vm for vm in self.vms if vm not in self.deleted_vms]
        if len(living) <= 1:
            step = replace(step, action="create", sensible=False)
        if len(self.vms) >= MAX_VMS and step.action == "create":
            self.vms = living
        await super().take(step)


@dataclass
class Drill:
    """The stack, the cloud, and what has happened so far."""

    stack: Stack
    random: Random
    count: int
    walkers: list[RetryingWalker] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    resets: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """The number of operations that were accepted."""
        changes = [change for walker in self.walkers for change in walker.user.changes]
        return sum(change.answer.status_code in {202, 204} for change in changes)

    async def begin(self, user: RetryingUser) -> RetryingWalker:
        """Let a user create what the requests begin with."""
        await until_listed(user)
        networks = [network["id"] for network in (await user.read("/networks"))["items"]]
        fitting = [flavor["id"] for flavor in (await user.read("/flavors"))["items"] if flavor["ram_mb"] < LARGEST_RAM]
        walker = Visitor(self.stack, user, fitting[:3], networks)
        self.walkers.append(walker)
        for which in range(2):
            await walker.take(Step("create", which, which, 0))
            await walker.take(Step("create-volume", which, which, 0))
        return walker

    async def walk(self, walker: RetryingWalker) -> None:
        """Send requests until there are enough."""
        while self.accepted < self.count:
            next_step = step(self.random)
            await asyncio.sleep(next_step.pause * 4)
            try:
                await walker.take(next_step)
            except AssertionError as error:
                self.errors.append(f"unexpected answer: {error}")
            if self.random.random() < WAITS:
                await _until_ended(walker.user)

    async def kill(self) -> None:
        """Kill one process after the other, until canceled."""
        while True:
            await asyncio.sleep(self.random.uniform(*PAUSE))
            target = self.random.choice(TARGETS)
            self.kills[target] += 1
            if target in OURS:
                self.stack.kill(target)  # its supervisor starts it again
                continue
            daemon = DAEMONS[target]
            await asyncio.to_thread(daemon.kill)
            try:
                await asyncio.sleep(self.random.uniform(*OUTAGE))
            finally:
                daemon.start()
            if daemon.port:
                await asyncio.to_thread(daemon.wait)

    async def until_ended(self) -> float:
        """Wait until no operation is open; returns the seconds."""
        operator, began = logins.connect(operator=True), time.monotonic()
        said = began
        owners = [await owner_of(self.stack, walker.user) for walker in self.walkers]
        while rows := [id for owner in owners for id in await open_operations(self.stack, owner)]:
            now = time.monotonic()
            if now - began > END:
                self.errors += [f"did not end: {dict(row)}" for row in await self._rows(rows)]
                break
            if now - said > 60:
                said = now
                for row in await self._rows(rows):
                    say(f"open: {row['action']} {row['id']} step {row['step']} {row['last_error']}")
                for reset in (_reset_stuck_servers, _reset_stuck_volumes):
                    self.resets += await asyncio.to_thread(reset, operator)
            await asyncio.sleep(1)
        return time.monotonic() - began

    async def check(self, before: Project, when: str) -> Project:
        """Check that the project has exactly what the database says, and return what it has."""
        project, found = await until_equal(self.stack, before)
        say(f"{when}: the project has {project.counts()}, {len(found)} differences")
        self.errors += [f"{when}: {difference}" for difference in found]
        return project

    async def check_operations(self) -> None:
        """Check that every accepted operation is recorded, and ended with a reason; print how they ended."""
        rows = await self.stack.sql(OPERATIONS)
        changes = [change for walker in self.walkers for change in walker.user.changes]
        promised = {change.operation_id for change in changes if change.answer.status_code in {202, 204}}
        recorded = {str(row["id"]) for row in rows if not row["actor"].startswith("@")}
        self.errors += [f"lost: operation {id}" for id in promised - recorded]
        self.errors += [f"never answered: operation {id}" for id in recorded - promised]
        deleted = {row["vm_id"] for row in rows if row["action"] in {"delete", "reset-state"}}
        for row in rows:
            if not _has_reason(row, deleted):
                self.errors.append(f"no reason: {dict(row)}")
        ends = Counter((row["action"], row["status"]) for row in rows)
        table("operation", "end", "times", rows=[(*end, times) for end, times in sorted(ends.items())])
        reasons = Counter((row["action"], json.loads(row["error"])["code"]) for row in rows if row["error"])
        table("failed", "reason", "times", rows=[(*reason, times) for reason, times in sorted(reasons.items())])

    async def delete_everything(self) -> None:
        """Delete all VMs, then all snapshots and volumes."""
        for user in (walker.user for walker in self.walkers):
            for kind in ("snapshots", "vms"):  # snapshots outlive their VM
                for item in (await user.read(f"/{kind}?page_size=100"))["items"]:
                    await self._delete(user, f"/{kind}/{item['id']}")
            await self.until_ended()
            for volume in (await user.read("/volumes?page_size=100"))["items"]:
                await self._delete(user, f"/volumes/{volume['id']}")
        await self.until_ended()

    async def _delete(self, user: RetryingUser, path: str) -> None:
        answer = await user.request("DELETE", path)
        if answer.status_code != 204:
            self.errors.append(f"cannot be deleted: {path}: {answer.text}")

    async def _rows(self, ids: Sequence[Any]) -> list[Any]:
        return await self.stack.sql("SELECT * FROM operations WHERE id = ANY($1)", ids)


def _reset_stuck_servers(operator: Connection) -> int:
    """Do what an operator has to: a message that RabbitMQ has lost leaves its server busy for ever."""
    answer = operator.compute.get("/servers/detail?all_tenants=1", microversion="2.95")
    limit = f"{datetime.now(UTC) - STUCK:%Y-%m-%dT%H:%M:%SZ}"
    rows = [row for row in answer.json()["servers"] if row["OS-EXT-STS:task_state"] and row["updated"] < limit]
    for row in rows:
        say(f"the operator resets the server {row['id']}: {row['OS-EXT-STS:task_state']} since {row['updated']}")
        operator.compute.post(f"/servers/{row['id']}/action", json={"os-resetState": {"state": "active"}})
    return len(rows)


def _reset_stuck_volumes(operator: Connection) -> int:
    """Do the same for volumes: a resize that is lost leaves them reserved, and a delete may be lost as well."""
    answer = operator.block_storage.get("/volumes/detail?all_tenants=1", microversion="3.70")
    limit = f"{datetime.now(UTC) - STUCK:%Y-%m-%dT%H:%M:%S}"
    busy = [row for row in answer.json()["volumes"] if row["status"] in VOLUME_WORK]
    rows = [row for row in busy if (row["updated_at"] or row["created_at"]) < limit]
    for row in rows:
        say(f"the operator resets the volume {row['id']}: {row['status']} since {row['updated_at']}")
        free = {"os-reset_status": {"status": "available", "attach_status": "detached"}}
        operator.block_storage.post(f"/volumes/{row['id']}/action", json=free, microversion="3.70")
    return len(rows)


def _has_reason(row: Any, deleted: set[Any]) -> bool:
    match row["status"]:
        case "FAILED" | "CANCELED":
            error = json.loads(row["error"] or "{}")
            return bool(error.get("code") and error.get("message"))
        case "SUPERSEDED":
            return row["vm_id"] in deleted
    return bool(row["status"] == "SUCCEEDED")


async def _until_ended(user: RetryingUser) -> None:
    """Wait until the user's last operation has ended, but not for ever."""
    id, give_up_at = user.changes[-1].operation_id, time.monotonic() + PATIENCE
    while id and time.monotonic() < give_up_at:
        if (await user.read(f"/operations/{id}"))["finished_at"]:
            return
        await asyncio.sleep(0.5)


async def run(stack: Stack, before: Project, count: int, seed: int) -> list[str]:
    """Run the drill; returns the errors."""
    drill = Drill(stack, Random(seed), count)
    began = time.monotonic()
    async with AsyncExitStack() as users:
        people = [await users.enter_async_context(log_in_retrying(stack.url, f"user-{n}")) for n in range(USERS)]
        for user in people:
            user.deadline = END
            await drill.begin(user)
        killer = asyncio.create_task(drill.kill())
        await asyncio.gather(*(drill.walk(walker) for walker in drill.walkers))
        killer.cancel()
        await asyncio.wait({killer})
        seconds = time.monotonic() - began
        say(f"{drill.accepted} operations were accepted in {seconds:.0f} s; kills: {dict(drill.kills)}")
        seconds = await drill.until_ended()
        say(f"all ended after {seconds:.0f} s more; the operator reset {drill.resets} servers and volumes")
        await drill.check(before, "at the end")
        await drill.check_operations()
        table("call", "sent", "again", "answer lost", rows=[tuple(row) for row in await stack.sql(CALLS)])
        await drill.delete_everything()
        left = await drill.check(before, "after everything was deleted")
        drill.errors += [f"{count} {kind} are left" for kind, count in left.counts().items() if count]
        drill.errors += [error for user in people for error in user.attempts.unexpected]
    return drill.errors


def main() -> None:
    """Run the drill."""
    count, seed = numbers(200, 1)
    run_drill(lambda stack, before: run(stack, before, count, seed))


if __name__ == "__main__":
    main()
