"""The migrated schema is the one the models and the lifecycle table describe."""

from collections.abc import Callable
from itertools import product

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.base import Base
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS, seed
from domain.data.models import VM, Flavor, Image, Network
from domain.rules.lifecycle import legal_states
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.settings import Settings
from migrations.__main__ import alembic_config, migrate
from tests.support.rows import add_operation, add_user, add_vm


def differences(connection: Connection) -> list[object]:
    """What a migration would still have to do to make the database look like the models."""
    options = {"compare_type": True, "compare_server_default": True}
    found: list[object] = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    return found


def constraints(connection: Connection) -> dict[str, str]:
    """Every CHECK of the schema by name; autogenerate does not compare them."""
    found = inspect(connection)
    return {
        str(check["name"]): str(check["sqltext"])
        for table in set(Base.metadata.tables) & set(found.get_table_names())
        for check in found.get_check_constraints(table)
    }


async def test_the_migrations_make_what_the_models_describe(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_migrations_make_the_constraints_of_the_models(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        migrated = await tx.run_sync(constraints)
        await tx.run_sync(Base.metadata.drop_all)
        await tx.run_sync(Base.metadata.create_all)
        modelled = await tx.run_sync(constraints)
        await tx.rollback()
    assert migrated == modelled
    assert migrated


async def test_every_migration_can_be_taken_back_and_made_again(engine: AsyncEngine) -> None:
    def down_and_up(connection: Connection) -> tuple[list[str], list[object]]:
        config = alembic_config(connection)
        command.downgrade(config, "base")
        left = inspect(connection).get_table_names()
        command.upgrade(config, "head")
        return left, differences(connection)

    async with engine.begin() as tx:
        left, missing = await tx.run_sync(down_and_up)
        await seed(tx)
    assert set(left) <= {"alembic_version"}
    assert missing == []


async def test_there_is_one_line_of_migrations(engine: AsyncEngine) -> None:
    def heads(connection: Connection) -> list[str]:
        return list(ScriptDirectory.from_config(alembic_config(connection)).get_heads())

    async with engine.connect() as connection:
        assert len(await connection.run_sync(heads)) == 1


async def test_migrating_again_changes_nothing(engine: AsyncEngine, settings: Settings) -> None:
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE flavors SET vcpus = 99 WHERE name = 'm1.tiny'"))
    await migrate(settings)
    await migrate(settings)
    async with engine.connect() as connection:
        for model, rows in ((Flavor, FLAVORS), (Image, IMAGES), (Network, NETWORKS)):
            found = (await connection.execute(select(model.__table__))).mappings().all()
            assert {row["name"]: dict(row) for row in found} == {row["name"]: row for row in rows}


async def test_the_database_holds_exactly_the_legal_states(engine: AsyncEngine) -> None:
    held = set()
    async with engine.begin() as tx:
        user = await add_user(tx)
        for status, task_state in product(Status, (None, *TaskState)):
            try:
                async with tx.begin_nested():
                    await add_vm(tx, user, status=status, task_state=task_state)
            except IntegrityError:
                continue
            held.add((status, task_state))
    assert held == legal_states()


async def test_a_fault_is_held_only_in_error(engine: AsyncEngine) -> None:
    held = set()
    async with engine.begin() as tx:
        user = await add_user(tx)
        for status, task_state in legal_states():
            try:
                async with tx.begin_nested():
                    await add_vm(tx, user, status=status, task_state=task_state, fault={"code": "c", "message": "m"})
            except IntegrityError:
                continue
            held.add(status)
    assert held == {Status.ERROR}


async def test_a_time_to_confirm_by_is_held_only_in_verify_resize(engine: AsyncEngine) -> None:
    held = set()
    async with engine.begin() as tx:
        user = await add_user(tx)
        for status, task_state in legal_states():
            try:
                async with tx.begin_nested():
                    await add_vm(tx, user, status=status, task_state=task_state, confirm_by=user.created_at)
            except IntegrityError:
                continue
            held.add(status)
    assert held == {Status.VERIFY_RESIZE}


async def test_a_database_in_use_goes_back_to_the_first_schema_and_forward_again(engine: AsyncEngine) -> None:
    """Back is what an operator does whose new release will not do; nothing that is stored is in the way of either."""

    def move(connection: Connection, way: Callable[[Config, str], None], to: str) -> set[str]:
        way(alembic_config(connection), to)
        return set(constraints(connection))

    rows = select(VM.id, VM.status, VM.task_state, VM.confirm_by).order_by(VM.id)
    async with engine.begin() as tx:
        user = await add_user(tx)
        for status, task_state in legal_states():
            await add_vm(tx, user, status=status, task_state=task_state)
        waiting = await add_vm(tx, user, status=Status.VERIFY_RESIZE, confirm_by=user.created_at)
        await add_operation(tx, waiting, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        before = (await tx.execute(rows)).all()
        first = await tx.run_sync(move, command.downgrade, "0001")
        assert (await tx.execute(rows)).all() == before
        second = await tx.run_sync(move, command.upgrade, "0002")
        assert (await tx.execute(rows)).all() == before
        newest = await tx.run_sync(move, command.upgrade, "0003")
        assert (await tx.execute(rows)).all() == before
    assert second - first == {"ck_vms_confirm_by"}
    statuses = {f"ck_{table}_status" for table in ("snapshots", "volumes", "attachments", "interfaces")}
    assert newest - second == {"ck_vms_attaching", *statuses}
    assert first < second < newest


async def test_an_operation_has_an_end_exactly_where_it_ended(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        now = vm.created_at
        for status, finished_at in product(OperationStatus, (None, now)):
            is_open = status in {OperationStatus.QUEUED, OperationStatus.RUNNING}
            try:
                async with tx.begin_nested():
                    await add_operation(tx, vm, Action.STOP, status=status, finished_at=finished_at)
            except IntegrityError:
                assert (finished_at is None) is not is_open
                continue
            assert (finished_at is None) is is_open
