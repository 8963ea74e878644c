"""A list reads few rows, however many its owner has: of VMs, operations, volumes and snapshots.

With LONG_LIST=1000000 the owner has a million VMs with ten operations each. That takes a quarter of an hour and 20 GB.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import database
from domain.settings import Settings
from tests.api.conftest import Person
from tests.api.test_long_lists import LONGER, fill
from tests.api.test_pages import links

VMS = int(os.environ.get("LONG_LIST", "15000"))
# Of a million names, thousands have all the three-letter parts of the one that is looked for.
OPERATIONS_EACH, FEW = (10, 5_000) if "LONG_LIST" in os.environ else (1, 200)
OPERATIONS = """
INSERT INTO operations (id, owner_id, actor, action, status, resource_type, resource_id, vm_id, input, workflow_id,
    request_id, created_at, finished_at)
SELECT gen_random_uuid(), owner_id, 'ada', CASE name WHEN 'vm-77' THEN 'stop' ELSE 'create' END, 'SUCCEEDED', 'vm', id,
    id, '{}', '', 'test', created_at, created_at
FROM vms, generate_series(1, :each)
"""
VOLUMES = """
INSERT INTO volumes (id, owner_id, name, size_gb, status, labels, operation_id, created_at)
SELECT gen_random_uuid(), owner_id, name, 1, 'AVAILABLE', labels, gen_random_uuid(), created_at
FROM vms
"""
SNAPSHOTS = """
INSERT INTO snapshots (id, owner_id, vm_id, name, size_gb, status, flavor_id, image_id, labels, operation_id,
    created_at)
SELECT gen_random_uuid(), owner_id, id, name, 1, 'AVAILABLE', flavor_id, image_id, labels, gen_random_uuid(), created_at
FROM vms
"""
TERMS = "INSERT INTO search_terms SELECT id, search_terms_of('{}', owner_id, name, labels) FROM {}"
SEARCHED = {"v": "vms", "d": "volumes", "s": "snapshots"}

PATHS = (
    "/vms?",
    "/vms?sort=name",
    "/vms?sort=-updated_at",
    "/vms?sort=status",
    "/vms?status=ERROR",
    "/vms?changes_since=2000-01-01T00:00:00Z",
    "/operations?",
    "/operations?sort=created_at",
    "/operations?status=SUCCEEDED",
    "/operations?action=create",
    "/volumes?",
    "/volumes?sort=name",
    "/volumes?sort=-updated_at",
    "/volumes?status=AVAILABLE",
    "/snapshots?",
    "/snapshots?sort=name",
    "/snapshots?status=AVAILABLE",
    # Many have these, so they are looked for in the order of the list.
    "/vms?labels=env=prod",
    "/vms?labels=env=prod,!x&sort=name",
    "/vms?name=m-",
    "/volumes?labels=env=prod",
    "/snapshots?name=m-",
)
FOUND_BY_AN_INDEX = (
    "/vms?labels=n=77",
    "/vms?labels=n%20in%20(77,78),env=prod&sort=-updated_at",
    "/vms?labels=x",
    "/vms?name=VM-7777",
    "/vms?name=no-such&sort=name",
    "/vms?name=q",
    "/vms?name=vm-7777&labels=env&sort=status&status=ACTIVE",
    "/operations?action=stop",
    "/operations?action=reboot",
    "/operations?status=RUNNING",
    "/volumes?name=vm-7777",
    "/volumes?labels=n=77",
    "/volumes?status=ERROR",
    "/snapshots?labels=n=77",
    "/snapshots?name=no-such",
)


@pytest.mark.timeout(7200)
async def test_a_list_reads_few_rows_however_many_its_owner_has(
    app: FastAPI, ada: Person, settings: Settings, engine: AsyncEngine
) -> None:
    """Few live ones, and few of the DELETED ones that are hidden by default; on the next page, too.

    One test has all lists, because to make so many VMs takes seconds.
    """
    patient = database.create_engine(settings, command_timeout=None)
    for status, count in (("ACTIVE", VMS), ("DELETED", 15_000), ("ERROR", 30)):
        await fill(patient, ada, count, status)
    async with patient.begin() as tx:
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        await tx.execute(text(OPERATIONS), {"each": OPERATIONS_EACH})
        for statement in (VOLUMES, SNAPSHOTS, *(TERMS.format(*kind) for kind in SEARCHED.items())):
            await tx.execute(text(statement))
    async with patient.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text(f"VACUUM ANALYZE operations, search_terms, {', '.join(SEARCHED.values())}"))
    await patient.dispose()
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(app.state.vmapi.engine.sync_engine, "before_cursor_execute", note)
    for path in PATHS:
        statements.clear()
        first = await ada.http.get(path)
        assert first.status_code == 200, (path, first.text)
        assert (await ada.http.get(f"http://api{links(first)['next']}")).status_code == 200
        # The first search for what many have reads MOST_CANDIDATES rows, to find that out.
        pages_read = [found for found in of_lists(statements) if "candidates" not in found[0]]
        assert len(pages_read) == 2, path
        for statement, parameters in pages_read:
            await check_plan(engine, statement, parameters, LONGER + 1_000, path)
    for path in FOUND_BY_AN_INDEX:
        statements.clear()
        assert (await ada.http.get(path)).status_code == 200
        assert of_lists(statements), path
        for statement, parameters in of_lists(statements):
            await check_plan(engine, statement, parameters, FEW, path)


def of_lists(statements: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """Those of the statements that read a page. Tasks of the application have statements, too."""
    return [found for found in statements if " AS read_since" in found[0]]


async def check_plan(engine: AsyncEngine, statement: str, parameters: Any, most: int, path: str) -> None:
    """Check that the statement of a list reads few rows."""
    async with engine.connect() as connection:
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        [plan] = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
    scans = [scan for scan in leaves(plan["Plan"]) if scan["Actual Loops"]]
    assert sum(map(rows_read, scans)) <= most, (path, statement, plan)
    # The few members of projects are the exception.
    read_whole = {scan["Relation Name"] for scan in scans if scan["Node Type"] == "Seq Scan" and rows_read(scan)}
    assert read_whole <= {"project_members"}, (path, statement, plan)


def rows_read(scan: dict[str, Any]) -> int:
    """How many rows a scan has read in each of its loops, those that it did not return included."""
    read: int = scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)
    return read


def leaves(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The scans of a plan."""
    if "Plans" not in node:
        yield node
    for child in node.get("Plans", ()):
        yield from leaves(child)
