"""Looks for changed rows: what they find, and how much they read for it."""

from typing import Any

from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import changes, token_epochs
from domain.data.models import VM
from tests.api.test_list_plans import leaves, rows_read
from tests.support.rows import add_user, add_vm

MANY, FEW = 40, 4


async def test_a_look_reads_only_what_is_new_while_a_transaction_of_somebody_else_stays_open(
    engine: AsyncEngine,
) -> None:
    async with engine.connect() as foreign, engine.connect() as late, engine.connect() as looking:
        await foreign.execute(text("SELECT pg_current_xact_id()"))
        async with engine.begin() as tx:
            users = [await add_user(tx, f"user-{n}") for n in range(MANY)]
            vms = [await add_vm(tx, users[0]) for _ in range(MANY)]
        await late.execute(update(VM).where(VM.id == vms[0].id).values(name="late"))
        then = await changes.position(looking)
        epochs = await token_epochs.look(looking, None)
        await looking.commit()
        async with engine.begin() as tx:
            await tx.execute(update(VM).where(VM.id == vms[1].id).values(name="new"))
        await late.commit()
        statements: list[tuple[str, Any]] = []

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            statements.append((statement, parameters))

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        _, found = await changes.since(looking, then)
        assert (await token_epochs.look(looking, epochs.position)).epochs == []
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        assert {row.id for row in found} == {vms[0].id, vms[1].id}
        await looking.execute(text("SET LOCAL enable_seqscan = off"))  # the tables are small
        for statement, parameters in statements:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
            [plan] = (await looking.exec_driver_sql(explain, parameters)).scalar_one()
            assert sum(rows_read(scan) for scan in leaves(plan["Plan"]) if "Relation Name" in scan) <= FEW, plan
