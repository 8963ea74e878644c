"""The migrated schema agrees with the models and the lifecycle table."""

import contextlib
import importlib
import pkgutil
from collections.abc import Callable
from itertools import product

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, func, inspect, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

import domain.data
from domain.data.base import Base
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS, seed
from domain.data.models import VM, Flavor, Image, Network, Snapshot
from domain.data.rate_limits import APIProcess, RateUse
from domain.rules.lifecycle import legal_states
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.settings import Settings
from migrations.__main__ import alembic_config, migrate
from tests.support.rows import add_attachment, add_interface, add_operation, add_snapshot, add_user, add_vm, add_volume

# A table is in the metadata once its module was imported, and nothing that these tests import needs all of them.
for module in pkgutil.iter_modules(domain.data.__path__, "domain.data."):
    importlib.import_module(module.name)


def differences(connection: Connection) -> list[object]:
    """The changes that the database still needs to agree with the models, as Alembic finds them."""
    options = {"compare_type": True, "compare_server_default": True}
    found: list[object] = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    return found


def constraints(connection: Connection) -> dict[str, str]:
    """All CHECK constraints by name; Alembic's autogenerate does not compare them."""
    found = inspect(connection)
    return {
        str(check["name"]): str(check["sqltext"])
        for table in set(Base.metadata.tables) & set(found.get_table_names())
        for check in found.get_check_constraints(table)
    }


async def test_the_migrations_create_the_tables_of_the_models(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.parametrize("model", [RateUse, APIProcess])
async def test_what_is_true_for_minutes_only_is_not_in_the_write_ahead_log(
    engine: AsyncEngine, model: type[Base]
) -> None:
    persistence = text("SELECT relpersistence FROM pg_class WHERE oid = to_regclass(:name)")
    async with engine.connect() as connection:
        assert await connection.scalar(persistence, {"name": model.__tablename__}) == b"u"


async def test_the_migrations_create_the_constraints_of_the_models(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        migrated = await tx.run_sync(constraints)
        await tx.run_sync(Base.metadata.drop_all)
        await tx.run_sync(Base.metadata.create_all)
        declared = await tx.run_sync(constraints)
        await tx.rollback()
    assert migrated == declared
    assert migrated


async def test_every_migration_can_be_reverted_and_applied_again(engine: AsyncEngine) -> None:
    def down_and_up(connection: Connection) -> tuple[list[str], list[object]]:
        config = alembic_config(connection)
        command.downgrade(config, "base")
        remaining = inspect(connection).get_table_names()
        command.upgrade(config, "head")
        return remaining, differences(connection)

    async with engine.begin() as tx:
        remaining, missing = await tx.run_sync(down_and_up)
        await seed(tx)
    assert set(remaining) <= {"alembic_version"}
    assert missing == []


async def test_the_migrations_have_one_head(engine: AsyncEngine) -> None:
    def heads(connection: Connection) -> list[str]:
        return list(ScriptDirectory.from_config(alembic_config(connection)).get_heads())

    async with engine.connect() as connection:
        assert len(await connection.run_sync(heads)) == 1


async def test_migrating_again_restores_the_catalogue(engine: AsyncEngine, settings: Settings) -> None:
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE flavors SET vcpus = 99 WHERE name = 'm1.tiny'"))
    await migrate(settings)
    await migrate(settings)
    async with engine.connect() as connection:
        for model, rows in ((Flavor, FLAVORS), (Image, IMAGES), (Network, NETWORKS)):
            found = (await connection.execute(select(model.__table__))).mappings().all()
            unwritten = {"cloud_id": None} if model is Flavor else {}
            wanted = {row["name"]: {**row, **unwritten, "is_available": True, "withdrawn_at": None} for row in rows}
            assert {row["name"]: dict(row) for row in found} == wanted


async def test_the_catalogue_of_a_real_cloud_is_not_seeded(engine: AsyncEngine, settings: Settings) -> None:
    async with engine.begin() as tx:
        for model in (Flavor, Image, Network):
            await tx.execute(delete(model))
    await migrate(settings.model_copy(update={"compute_backend": "openstack"}))
    async with engine.connect() as connection:
        found = [await connection.scalar(select(func.count()).select_from(model)) for model in (Flavor, Image, Network)]
    assert found == [0, 0, 0]


async def test_a_downgrade_keeps_what_a_cloud_has_without_a_name_of_its_own(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(Flavor).values(name="same"))
        await tx.execute(update(Image).values(name="same", os_distro=None, os_version=None))
        await tx.execute(update(Network).values(name="same", gateway=None))
        await tx.run_sync(lambda connection: command.downgrade(alembic_config(connection), "0009"))
        for model, rows in ((Flavor, FLAVORS), (Image, IMAGES), (Network, NETWORKS)):
            names = list(await tx.scalars(select(model.name)))
            assert (names.count("same"), len(set(names))) == (1, len(rows))
        assert set(await tx.scalars(select(Network.gateway))) == {"10.0.0.0", "10.1.0.0", "10.2.0.0"}
        await tx.run_sync(lambda connection: command.upgrade(alembic_config(connection), "head"))


async def test_the_database_accepts_exactly_the_legal_states(engine: AsyncEngine) -> None:
    accepted = set()
    async with engine.begin() as tx:
        user = await add_user(tx)
        for status, task_state in product(Status, (None, *TaskState)):
            try:
                async with tx.begin_nested():
                    await add_vm(tx, user, status=status, task_state=task_state)
            except IntegrityError:
                continue
            accepted.add((status, task_state))
    assert accepted == legal_states()


async def test_only_a_vm_in_error_may_have_a_fault(engine: AsyncEngine) -> None:
    accepted = set()
    async with engine.begin() as tx:
        user = await add_user(tx)
        for status, task_state in legal_states():
            try:
                async with tx.begin_nested():
                    await add_vm(tx, user, status=status, task_state=task_state, fault={"code": "c", "message": "m"})
            except IntegrityError:
                continue
            accepted.add(status)
    assert accepted == {Status.ERROR}


async def test_two_rows_of_a_table_cannot_have_the_same_id_of_the_cloud(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user, cloud_id="a")
        for add in (lambda: add_vm(tx, user, cloud_id="a"), lambda: add_snapshot(tx, vm, cloud_id="a")):
            for _ in range(2):
                with contextlib.suppress(IntegrityError):
                    async with tx.begin_nested():
                        await add()
        assert [await tx.scalar(select(func.count()).select_from(model)) for model in (VM, Snapshot)] == [1, 1]


async def test_a_downgrade_keeps_rows_whose_addresses_and_devices_only_the_cloud_knows(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        for number in range(2):
            await add_interface(tx, vm, f"10.0.0.{number}")
            await add_attachment(tx, vm, await add_volume(tx, user), device=None)
        await tx.execute(text("UPDATE interfaces SET ip_address = NULL, mac_address = NULL"))
        # PostgreSQL alters no table with constraints that are still to be checked, and this one reads a dropped column.
        await tx.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        await tx.execute(text("DROP FUNCTION check_vm_is_updated_too CASCADE"))
        await tx.run_sync(lambda connection: command.downgrade(alembic_config(connection), "0007"))
        known = "SELECT count(DISTINCT ip_address), count(DISTINCT mac_address) FROM interfaces"
        assert tuple((await tx.execute(text(known))).one()) == (2, 2)
        assert await tx.scalar(text("SELECT count(DISTINCT device) FROM attachments")) == 2


async def test_only_a_vm_in_verify_resize_may_have_confirm_by(engine: AsyncEngine) -> None:
    accepted = set()
    async with engine.begin() as tx:
        user = await add_user(tx)
        for status, task_state in legal_states():
            try:
                async with tx.begin_nested():
                    await add_vm(tx, user, status=status, task_state=task_state, confirm_by=user.created_at)
            except IntegrityError:
                continue
            accepted.add(status)
    assert accepted == {Status.VERIFY_RESIZE}


async def test_a_database_in_use_can_be_downgraded_to_the_first_schema_and_upgraded_again(engine: AsyncEngine) -> None:
    """An operator downgrades to leave a release; the stored rows prevent neither direction."""

    def move(connection: Connection, direction: Callable[[Config, str], None], revision: str) -> set[str]:
        direction(alembic_config(connection), revision)
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


async def test_an_operation_has_finished_at_exactly_if_it_is_not_open(engine: AsyncEngine) -> None:
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
