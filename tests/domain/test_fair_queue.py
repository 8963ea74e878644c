"""The fair queue on real PostgreSQL: which operations a lease picks, and how many."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data import database
from domain.data.models import UNBEGUN, UNDELIVERED, Operation
from domain.data.projects import Project
from domain.progress import fair_queue, outbox
from domain.rules.states import OperationStatus
from tests.domain.test_outbox import lease, queue
from tests.support.rows import add_user


async def test_owners_take_turns_however_many_operations_one_of_them_has(engine: AsyncEngine) -> None:
    many, three, single = await queue(engine, 50), await queue(engine, 3), await queue(engine, 1)
    assert set(await lease(engine, limit=5)) == {*many[:2], *three[:2], *single}
    async with engine.begin() as tx:
        await outbox.note_delivered(tx, [*many[:2], *three[:2], *single], 60.0)
    late_comer = await queue(engine, 2)
    assert set(await lease(engine, limit=2)) == set(late_comer), "the others have unbegun operations in Temporal"


async def test_a_user_has_one_turn_with_any_number_of_projects(engine: AsyncEngine) -> None:
    mallory = uuid4()
    of_many = [id for _ in range(20) for id in await queue(engine, 2, requested_by=mallory)]
    of_ada = await queue(engine, 4)
    first = set(await lease(engine, limit=4))
    assert len(first & set(of_ada)) == 2
    async with engine.begin() as tx:
        await outbox.note_delivered(tx, [*first], 60.0)
    second = set(await lease(engine, limit=4))
    assert len(second & set(of_ada)) == 2
    assert (first | second) - set(of_ada) <= set(of_many)


async def test_the_members_of_one_project_take_turns(engine: AsyncEngine) -> None:
    many, [one] = await queue(engine, 200), await queue(engine, 1)
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(owner_id=select(Project.id).limit(1).scalar_subquery()))
    first = await lease(engine, limit=4)
    assert one in first
    assert set(first) - {one} <= set(many)


async def test_with_whatever_names_others_wait_a_user_has_a_turn(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more of them than one statement sees, and all their names stand right before the user's."""
    monkeypatch.setattr(fair_queue, "MOST_SEEN", 20)
    for number in range(40):
        await queue(engine, 60, actor=f"car-{number:03}")
    [of_victim] = await queue(engine, 1, actor="carol")
    for _ in range(200):  # one user in ten gets a turn in each
        leased = await lease(engine, limit=4)
        if of_victim in leased:
            return
        async with engine.begin() as tx:
            begun = update(Operation).where(Operation.id.in_(leased)).values(status=OperationStatus.RUNNING)
            await tx.execute(begun)
    raise AssertionError("the victim has had no turn")


async def test_what_earlier_code_has_accepted_waits_for_the_turn_of_its_project(engine: AsyncEngine) -> None:
    early, late = await queue(engine, 3, requested_by=None), await queue(engine, 3)
    assert set(await lease(engine, limit=2)) == {early[0], late[0]}


async def test_owners_beyond_the_limit_of_one_statement_are_served_by_the_next_ones(engine: AsyncEngine) -> None:
    ids = [id for _ in range(fair_queue.USERS + 8) for id in await queue(engine, 2)]
    shares = [await lease(engine, limit=16) for _ in range(4 * len(ids) // 16)]
    assert {id for share in shares for id in share} == set(ids)


async def test_temporal_gets_no_more_than_the_workers_can_begin(engine: AsyncEngine) -> None:
    ids = await queue(engine, fair_queue.MAX_UNBEGUN + 50)
    delivered = ids[: fair_queue.MAX_UNBEGUN]
    assert set(await lease(engine, limit=fair_queue.MAX_UNBEGUN + 20)) == set(delivered)
    async with engine.begin() as tx:
        await outbox.note_delivered(tx, delivered, 60.0)
    assert await lease(engine) == []
    async with engine.begin() as tx:
        begun = update(Operation).where(Operation.id.in_(delivered[:7])).values(status=OperationStatus.RUNNING)
        await tx.execute(begun)
    assert set(await lease(engine)) == set(ids[fair_queue.MAX_UNBEGUN :][:7])
    async with engine.begin() as tx:
        await tx.execute(update(Operation).values(delivered_at=func.now() - fair_queue.COUNTED_FOR))
    assert len(await lease(engine)) == 43, "operations that are not begun for so long no longer count"


@pytest.mark.parametrize("before", ["SELECT 1", "ANALYZE operations"])
@pytest.mark.parametrize("after", ["SELECT 1", "VACUUM operations", "VACUUM ANALYZE operations"])
async def test_the_statement_reads_few_rows(engine: AsyncEngine, before: str, after: str) -> None:
    """A condition that is worded differently, or hidden in a parameter, would make it read the whole table.

    Right after many creates the planner does not know how many wait. It must not read all of them then. Autovacuum
    may run at any time: it counted all 2,000 as waiting before they ended.
    """
    ended, (delivered, *_) = await queue(engine, 2000), await queue(engine, 1000)
    async with database.autocommit(engine).connect() as connection:
        await connection.execute(text(before))
    async with engine.begin() as tx:
        end = update(Operation).where(Operation.id.in_(ended))
        await tx.execute(end.values(status=OperationStatus.SUCCEEDED, finished_at=func.now()))
        await outbox.note_delivered(tx, [delivered], 60.0)
    statement = select(fair_queue.next_operations(16)).compile(dialect=engine.dialect)
    parameters = statement.params | {"start": UUID(int=0)}  # the plan depends on how many users come after it
    values = tuple(parameters[name] for name in statement.positiontup or [])
    async with database.autocommit(engine).connect() as connection:
        await connection.execute(text(after))
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN ANALYZE {statement}", values)).scalars())
    assert plan.count("using ix_operations_users") == 5, plan
    assert "ix_operations_delivered" in plan or "ix_operations_looks" in plan  # each of them has one row here
    assert "using pk_operations" in plan
    assert "Seq Scan" not in plan


HISTORY = """
INSERT INTO operations (id, owner_id, actor, action, status, resource_type, resource_id, input, workflow_id, request_id,
    finished_at)
SELECT gen_random_uuid(), id, '', 'stop', 'SUCCEEDED', 'vm', id, '{}', '', '', now()
FROM (SELECT id FROM projects LIMIT 1) AS one, generate_series(1, 20000)
"""
WAITING = """
INSERT INTO operations (id, owner_id, requested_by, actor, action, resource_type, resource_id, input, workflow_id,
    request_id)
SELECT gen_random_uuid(), id, md5(user_number::text)::uuid, user_number::text, 'stop', 'vm', id, '{}', '', ''
FROM (SELECT id FROM projects LIMIT 1) AS one, generate_series(1, 300) AS user_number, generate_series(1, 10)
"""
ROWS_READ = """
SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'operations')
    + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'operations')
"""


async def rows_read(connection: AsyncConnection) -> int:
    """The rows and entries of indexes of operations that have been read so far."""
    await connection.execute(text("SELECT pg_stat_force_next_flush()"))
    await connection.commit()
    number = int(await connection.scalar(text(ROWS_READ)) or 0)
    await connection.commit()
    return number


@pytest.mark.parametrize("has_history", [False, True])
async def test_a_look_reads_few_rows_whatever_plan_fitted_while_nothing_waited(
    engine: AsyncEngine, *, has_history: bool
) -> None:
    """PostgreSQL keeps plans and statistics of a queue that was empty. Then thousands of creates come."""
    async with engine.begin() as tx:
        await add_user(tx)
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        await tx.execute(text(HISTORY if has_history else "SELECT"))
    async with database.autocommit(engine).connect() as connection:
        await connection.execute(text("VACUUM ANALYZE operations" if has_history else "SELECT"))
    async with engine.connect() as connection:
        for _ in range(8):
            await outbox.lease_operations(connection, 16, 60.0)
            await connection.commit()
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(text(WAITING))
        await connection.commit()
        before = await rows_read(connection)
        assert len(await outbox.lease_operations(connection, 16, 60.0)) == 16
        await connection.commit()
        assert await rows_read(connection) - before < 6_000


def test_the_statement_repeats_the_conditions_of_the_indexes() -> None:
    statement = str(select(fair_queue.next_operations(16)))
    assert statement.count(UNDELIVERED.text) == 5
    assert statement.count(UNBEGUN.text) == 1
