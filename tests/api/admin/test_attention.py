"""GET /admin/attention: everything that needs a person's attention, of all owners."""

from typing import Any
from uuid import uuid4

from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data import database, queries
from domain.data.accounts import User
from domain.data.cloud import Finding
from domain.data.models import VM
from domain.rules.resources import VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from domain.upkeep.attention import ATTENTION
from tests.api.conftest import Person
from tests.support.rows import add_operation, add_vm, add_volume

FAILED = OperationStatus.FAILED
# Copies of an operation, each of another resource.
COPIES = """
INSERT INTO operations (id, owner_id, actor, action, status, resource_type, resource_id, vm_id, input, workflow_id,
    request_id, created_at, finished_at, interruption)
SELECT gen_random_uuid(), owner_id, actor, action, status, resource_type, gen_random_uuid(), vm_id, input, workflow_id,
    request_id, created_at, finished_at, interruption
FROM operations, generate_series(1, :count) WHERE id = :id
"""
INTERRUPTED: dict[str, Any] = {"status": FAILED, "interruption": "workflow_terminated", "holds": False}


async def test_failed_and_running_operations_need_no_attention_while_their_vm_is_well(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        await add_operation(tx, vm, Action.STOP, status=FAILED)
        await add_operation(tx, vm, Action.STOP, attempt=2)
    assert (await root.http.get("/admin/attention")).json()["items"] == []


async def add_settled_interruptions(tx: AsyncConnection, user: User, vm: VM) -> None:
    """Add interrupted operations that need no attention any more, one for each reason."""
    # The same action was requested later.
    await add_operation(tx, vm, Action.STOP, **INTERRUPTED)
    await add_operation(tx, vm, Action.STOP, status=FAILED, holds=False, created_at=queries.from_now(1))
    # The VM is deleted.
    await add_operation(tx, await add_vm(tx, user, status=Status.DELETED), Action.START, **INTERRUPTED)
    # The operation was retried.
    retried = await add_operation(tx, vm, Action.SNAPSHOT, **INTERRUPTED)
    await add_operation(tx, vm, Action.SNAPSHOT, status=FAILED, holds=False, retry_of=retried.id, resource_id=uuid4())
    # The volume is deleted.
    deleted = await add_volume(tx, user, status=VolumeStatus.DELETED)
    of_volume: dict[str, Any] = {"resource_id": deleted.id, "vm_id": None, "previous_status": None}
    await add_operation(tx, vm, Action.CREATE_VOLUME, **INTERRUPTED | of_volume)


async def test_what_needs_attention_is_listed_oldest_first_with_its_owner(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    fault = {"code": "server_gone", "message": "Gone."}
    async with engine.begin() as tx:
        broken = await add_vm(tx, ada.user, status=Status.ERROR, fault=fault)
        holder = await add_operation(tx, broken, Action.STOP, status=FAILED)
        volume = await add_volume(tx, ada.user, status=VolumeStatus.ERROR)
        vm = await add_vm(tx, ada.user)
        retrying = await add_operation(tx, vm, Action.STOP, attempt=9, last_error="no answer", holds=False)
        old: dict[str, Any] = {"status": OperationStatus.QUEUED, "created_at": queries.from_now(-90), "holds": False}
        delivered = old | {"deliveries": 1, "delivered_at": queries.from_now(-80)}
        not_begun = await add_operation(tx, vm, Action.ATTACH_VOLUME, **delivered)
        # This one was not delivered yet. It needs no attention: the outbox may be long.
        await add_operation(tx, vm, Action.ATTACH_VOLUME, **old)
        slow = await add_operation(tx, vm, Action.STOP, holds=False, created_at=queries.from_now(-3700))
        interrupted = await add_operation(tx, vm, Action.START, **INTERRUPTED)
        await add_settled_interruptions(tx, ada.user, vm)
        seen = {"status": "ACTIVE", "server": "VERIFY_RESIZE"}
        finding = {"kind": "server_status", "resource_type": "vm", "resource_id": vm.id, "seen": seen}
        await queries.insert_row(tx, Finding, **finding)
        await queries.insert_row(tx, Finding, **finding | {"resolved_at": func.now(), "resolution": "over"})
    page = (await root.http.get("/admin/attention")).json()
    items = {item["kind"]: item for item in page["items"]}
    assert page["total"] == len(items) == 7
    assert [item["kind"] for item in page["items"]][:2] == ["operation_slow", "operation_not_begun"]
    assert items["vm_in_error"]["detail"] == fault
    assert items["vm_in_error"]["temporal_url"].endswith(f"/workflows/{holder.workflow_id}")
    assert items["volume_in_error"]["resource_id"] == str(volume.id)
    assert items["server_status"]["detail"] == seen
    assert items["operation_retrying"]["detail"]["last_error"] == "no answer"
    operation_ids = {kind: item["operation_id"] for kind, item in items.items()}
    assert operation_ids["operation_retrying"] == str(retrying.id)
    assert operation_ids["operation_slow"] == str(slow.id)
    assert operation_ids["operation_not_begun"] == str(not_begun.id)
    assert operation_ids["operation_interrupted"] == str(interrupted.id)
    assert {item["owner"] for kind, item in items.items() if kind != "server_status"} == {"ada"}
    pages = [(await root.http.get("/admin/attention", params={"page_size": 4})).json()]
    pages.append((await root.http.get("/admin/attention", params={"cursor": pages[0]["next_cursor"]})).json())
    assert [item for part in pages for item in part["items"]] == page["items"]


async def test_interruptions_of_an_owner_with_many_later_operations_are_not_compared_with_each_of_these(
    ada: Person, engine: AsyncEngine
) -> None:
    """A Temporal that is restored from a backup interrupts all open operations. The list must not time out then."""
    async with engine.begin() as tx:
        for count, interruption, age in ((200, INTERRUPTED["interruption"], 10), (5_000, None, 0)):
            values: dict[str, Any] = INTERRUPTED | {"created_at": queries.from_now(-age), "interruption": interruption}
            example = await add_operation(tx, await add_vm(tx, ada.user), Action.STOP, **values)
            await tx.execute(text(COPIES), {"id": example.id, "count": count - 1})
    statement = ATTENTION.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})
    async with database.autocommit(engine).connect() as connection:
        await connection.execute(text("VACUUM ANALYZE operations"))
        [plan] = (await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")).scalar_one()
    assert plan["Plan"]["Actual Rows"] == 200
    # Each of 5,200 rows is read for some of the reasons. One by one it would be a million.
    assert rows_read(plan["Plan"]) < 50_000


def rows_read(node: dict[str, Any]) -> int:
    """How many rows the scans of a plan read."""
    read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    of_this = 0 if "Plans" in node and "Scan" not in node["Node Type"] else read * node["Actual Loops"]
    return int(of_this) + sum(map(rows_read, node.get("Plans", ())))
