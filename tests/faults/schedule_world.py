"""What one client does in a schedule, and what must hold when all of it is over."""

import asyncio
import time
from collections import Counter
from typing import Any
from uuid import UUID

import httpx

from tests.faults.client import PATIENCE, Client
from tests.faults.schedule import CANCEL_OPERATION
from tests.faults.schedule_model import surprises
from tests.integration.anything import Step, World
from tests.support.truth import LEFT_BY_BUILDS, Database

OPERATIONS = "SELECT *, xmin::text AS version FROM operations WHERE owner_id = $1 ORDER BY created_at"
REMAINS = """
SELECT * FROM operations
WHERE owner_id = $1 AND action IN ('create-volume', 'snapshot') AND error->>'message' LIKE '%After that:%'"""


class FaultyWorld(World):
    """What one client has; it sends everything again until it is answered."""

    user: Client

    async def do(self, step: Step) -> None:
        """Make one request and judge its answer."""
        if step.action != CANCEL_OPERATION:
            await super().do(step)
            return
        known = [asked.operation_id for asked in self.user.asked if asked.operation_id][-4:]
        answer = await self._send("POST", f"/operations/{known[step.which % len(known)]}/cancel")
        self.answers[step.action, answer.status_code] += 1
        assert answer.status_code == 202 or answer.json()["code"] == "too_late", answer.text

    def judge(self, step: Step, answer: httpx.Response) -> None:
        """As in a calm world, but for a VM in ERROR that never launched: it allows delete alone."""
        if answer.status_code == 409 and step.action != "delete":
            problem = answer.json()
            if problem.get("current_status") == "ERROR" and problem["allowed_actions"] == ["delete"]:
                return
        super().judge(step, answer)

    async def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        return await self.user.ask(method, path, body or None)


async def owner_of(database: Database, client: Client) -> UUID:
    """The client's user."""
    (row,) = await database.sql("SELECT id FROM users WHERE username = $1", client.name)
    id: UUID = row["id"]
    return id


async def open_operations(database: Database, owner_id: UUID) -> dict[UUID, str]:
    """The owner's operations that have not ended, with the versions of their rows."""
    rows = await database.sql(OPERATIONS, owner_id)
    return {row["id"]: row["version"] for row in rows if row["status"] in {"QUEUED", "RUNNING"}}


async def until_moving(database: Database, owner_id: UUID) -> float | None:
    """Seconds until each operation that is open now has gone on or ended; None where none is."""
    began = time.monotonic()
    waiting = await open_operations(database, owner_id)
    if not waiting:
        return None
    while waiting:
        assert time.monotonic() < began + PATIENCE, f"do not go on: {sorted(waiting)}"
        await asyncio.sleep(0.05)
        now = await open_operations(database, owner_id)
        waiting = {id: version for id, version in waiting.items() if now.get(id) == version}
    return time.monotonic() - began


async def until_ended(database: Database, *owner_ids: UUID) -> None:
    """Wait until nothing of the owners is open any more."""
    give_up_at = time.monotonic() + PATIENCE
    for owner_id in owner_ids:
        while left := await open_operations(database, owner_id):
            if time.monotonic() > give_up_at:
                stuck = [dict(row) for row in await database.sql(OPERATIONS, owner_id) if row["id"] in left]
                raise AssertionError(f"stuck: {stuck}")
            await asyncio.sleep(0.1)


async def complaints(database: Database, client: Client, owner_id: UUID, *, refused: bool) -> list[str]:
    """What is wrong with what the client was answered, and what became of it; `refused`: whether anything may fail."""
    rows = await database.sql(OPERATIONS, owner_id)
    promised = {asked.operation_id for asked in client.asked if asked.answer.status_code in {202, 204}}
    recorded = {str(row["id"]) for row in rows if not row["actor"].startswith("@")}
    found = [f"unexpected answer: {answer}" for answer in client.attempts.unexpected]
    found += [f"lost: operation {id}" for id in promised - recorded]
    found += [f"never answered: operation {id}" for id in recorded - promised]
    found += [f"surprise: {what}" for what in await surprises(database, owner_id)]
    found += [f"left by a failed build: {dict(row)}" for row in await database.sql(LEFT_BY_BUILDS)]
    found += _unreasoned(rows, refused=refused)
    for asked in client.asked:
        if asked.answer.status_code not in {202, 204}:
            continue
        again = await client.request(asked.method, asked.path, json=asked.body, headers={"Idempotency-Key": asked.key})
        same = (again.status_code, again.headers.get("Operation-Location"), again.content)
        if same != (asked.answer.status_code, asked.answer.headers["Operation-Location"], asked.answer.content):
            found.append(f"another answer to {asked.method} {asked.path} {asked.key}: {again.status_code} {again.text}")
    return found


async def delete_remains(database: Database, client: Client, owner_id: UUID) -> None:
    """What a client does about things in ERROR that the cloud refused to remove again: their operations say so."""
    for row in await database.sql(REMAINS, owner_id):
        path = f"/vms/{row['vm_id']}/snapshots/{row['resource_id']}"
        if row["action"] == "create-volume":
            path = f"/volumes/{row['resource_id']}"
        answer = await client.request("DELETE", path)
        assert answer.status_code in {204, 404}, answer.text  # 404: it has been deleted before
    await until_ended(database, owner_id)


def _unreasoned(rows: list[Any], *, refused: bool) -> list[str]:
    """Ends that nobody has caused."""
    deleted = {row["vm_id"] for row in rows if row["action"] in {"delete", "reset-state"}}
    found = []
    for row in rows:
        why = {
            "FAILED": refused or row["interruption"] is not None,
            "CANCELED": refused or row["cancel_requested_at"] is not None,
            "SUPERSEDED": row["vm_id"] in deleted,
        }
        if not why.get(row["status"], True):
            found.append(f"no reason for {dict(row)}")
        if row["action"] == "reset-state" and not refused:
            found.append(f"the cloud differed: {dict(row)}")
    return found


def statuses(rows: list[Any]) -> Counter[str]:
    """How many operations ended how."""
    return Counter(row["status"] for row in rows)
