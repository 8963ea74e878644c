"""The random walk of one user while faults happen, and what must be true when it is over."""

import asyncio
import time
from collections import Counter
from typing import Any
from uuid import UUID

import httpx

from tests.faults.schedule import CANCEL_OPERATION
from tests.faults.schedule_model import unexpected_rows
from tests.support.random_walk import Step, Walker
from tests.support.truth import LEFT_BY_FAILED_BUILDS, Database
from tests.support.users import DEADLINE_WITH_FAULTS, RetryingUser
from tests.support.waiting import poll

OPEN = {"QUEUED", "RUNNING"}
OPERATIONS = "SELECT *, xmin::text AS version FROM operations WHERE owner_id = $1 ORDER BY created_at"
LEFTOVERS = """
SELECT * FROM operations
WHERE owner_id = $1 AND action IN ('create-volume', 'snapshot') AND error->>'message' LIKE '%After that:%'"""


class RetryingWalker(Walker):
    """A walker that repeats each request until it is answered, and that also cancels operations."""

    user: RetryingUser

    async def take(self, step: Step) -> None:
        """Send one request and check its answer."""
        if step.action != CANCEL_OPERATION:
            await super().take(step)
            return
        known = [change.operation_id for change in self.user.changes if change.operation_id][-4:]
        answer = await self._send("POST", f"/operations/{known[step.which % len(known)]}/cancel")
        self.answers[step.action, answer.status_code] += 1
        assert answer.status_code == 202 or answer.json()["code"] == "too_late", answer.text

    def check(self, step: Step, answer: httpx.Response) -> None:
        """Check one answer; a VM that was never built and is in ERROR allows only its delete."""
        if answer.status_code == 409 and step.action != "delete":
            problem = answer.json()
            if problem.get("current_status") == "ERROR" and problem["allowed_actions"] == ["delete"]:
                return
        super().check(step, answer)

    async def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        return await self.user.change(method, path, body or None)


async def owner_of(database: Database, user: RetryingUser) -> UUID:
    """The id of the user."""
    (row,) = await database.sql("SELECT id FROM users WHERE username = $1", user.name)
    id: UUID = row["id"]
    return id


async def open_operations(database: Database, owner_id: UUID) -> dict[UUID, str]:
    """The ids of the owner's open operations, with the versions of their rows."""
    rows = await database.sql(OPERATIONS, owner_id)
    return {row["id"]: row["version"] for row in rows if row["status"] in OPEN}


async def until_moving(database: Database, owner_id: UUID) -> float | None:
    """Wait until each operation that is open now has changed or ended; returns the seconds, or None if none is open."""
    started_at = time.monotonic()
    waiting = await open_operations(database, owner_id)
    if not waiting:
        return None
    while waiting:
        assert time.monotonic() < started_at + DEADLINE_WITH_FAULTS, f"no progress: {sorted(waiting)}"
        await asyncio.sleep(0.05)
        now = await open_operations(database, owner_id)
        waiting = {id: version for id, version in waiting.items() if now.get(id) == version}
    return time.monotonic() - started_at


async def until_ended(database: Database, *owner_ids: UUID) -> None:
    """Wait until none of the owners has an open operation."""

    async def open_rows() -> list[dict[str, Any]]:
        rows = [row for owner_id in owner_ids for row in await database.sql(OPERATIONS, owner_id)]
        return [dict(row) for row in rows if row["status"] in OPEN]

    await poll(open_rows, lambda rows: not rows, deadline=DEADLINE_WITH_FAULTS)


async def errors_of(database: Database, user: RetryingUser, owner_id: UUID, *, may_fail: bool) -> list[str]:
    """What is wrong with the answers and the resources of a user; with `may_fail`, operations may fail."""
    found = [f"unexpected: {row}" for row in await unexpected_rows(database, owner_id)]
    found += [f"left by a failed build: {dict(row)}" for row in await database.sql(LEFT_BY_FAILED_BUILDS)]
    return found + await errors_of_operations(database, user, owner_id, may_fail=may_fail)


async def errors_of_operations(database: Database, user: RetryingUser, owner_id: UUID, *, may_fail: bool) -> list[str]:
    """What is wrong with the answers and the operations of a user."""
    rows = await database.sql(OPERATIONS, owner_id)
    promised = {change.operation_id for change in user.changes if change.answer.status_code in {202, 204}}
    recorded = {str(row["id"]) for row in rows if not row["actor"].startswith("@")}
    found = [f"unexpected answer: {answer}" for answer in user.attempts.unexpected]
    found += [f"lost: operation {id}" for id in promised - recorded]
    found += [f"never answered: operation {id}" for id in recorded - promised]
    found += _ends_without_cause(rows, may_fail=may_fail)
    # A repeated request with the same key must get the same answer, even long after.
    for change in user.changes:
        if change.answer.status_code not in {202, 204}:
            continue
        again = await user.request(
            change.method, change.path, json=change.body, headers={"Idempotency-Key": change.key}
        )
        same = (again.status_code, again.headers.get("Operation-Location"), again.content)
        if same != (change.answer.status_code, change.answer.headers["Operation-Location"], change.answer.content):
            found.append(
                f"another answer to {change.method} {change.path} {change.key}: {again.status_code} {again.text}"
            )
    return found


async def delete_leftovers(database: Database, user: RetryingUser, owner_id: UUID) -> None:
    """Delete the resources in ERROR whose undo the cloud has refused, as the errors of their operations ask."""
    for row in await database.sql(LEFTOVERS, owner_id):
        path = f"/vms/{row['vm_id']}/snapshots/{row['resource_id']}"
        if row["action"] == "create-volume":
            path = f"/volumes/{row['resource_id']}"
        answer = await user.request("DELETE", path)
        assert answer.status_code in {204, 404}, answer.text  # 404: the user has deleted it already
    await until_ended(database, owner_id)


def _ends_without_cause(rows: list[Any], *, may_fail: bool) -> list[str]:
    """Operations that failed, were canceled or superseded without a cause."""
    deleted = {row["vm_id"] for row in rows if row["action"] in {"delete", "reset-state"}}
    found = []
    for row in rows:
        has_cause = {
            "FAILED": may_fail or row["interruption"] is not None,
            "CANCELED": may_fail or row["cancel_requested_at"] is not None,
            "SUPERSEDED": row["vm_id"] in deleted,
        }
        if not has_cause.get(row["status"], True):
            found.append(f"no cause for {dict(row)}")
        if row["action"] == "reset-state" and not may_fail:
            found.append(f"the cloud differed: {dict(row)}")
    return found


def statuses(rows: list[Any]) -> Counter[str]:
    """The number of operations by status."""
    return Counter(row["status"] for row in rows)
