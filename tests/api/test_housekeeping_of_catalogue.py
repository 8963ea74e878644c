"""Housekeeping: what the cloud has not offered for long leaves the catalogue when nothing needs it any more."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.background import housekeeping
from domain.commands.resize_decisions import undecided_resize
from domain.data.cloud import FoundServer
from domain.data.models import VM, Flavor, Image, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from domain.rules.resources import SnapshotStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from domain.upkeep import retention
from tests.api.old_rows import DAYS, LONG_AGO, NOW
from tests.support.rows import INPUTS, add_interface, add_operation, add_snapshot, add_user, add_vm, add_volume

# Makes something that needs the row with this id.
Use = Callable[[AsyncConnection, UUID], Awaitable[Any]]
ROWS: dict[Any, dict[str, Any]] = {
    Flavor: {"vcpus": 1, "ram_mb": 512, "disk_gb": 20},
    Image: {"size_gb": 1, "is_default": False},
    Network: {"cidr": "10.9.0.0/24", "is_default": False, "allocates": False},
    SecurityGroup: {"description": ""},
    AvailabilityZone: {},
}
WITHDRAWN = {"is_available": False, "withdrawn_at": LONG_AGO}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between batches."""
    monkeypatch.setattr(housekeeping, "PAUSE", 0)


async def add(tx: AsyncConnection, model: Any, **values: Any) -> UUID:
    """Add a row that was withdrawn long ago, and return its id."""
    id = uuid4()
    await tx.execute(insert(model).values({"id": id, "name": f"old-{id}"} | ROWS[model] | WITHDRAWN | values))
    return id


async def kept(engine: AsyncEngine, model: Any, *ids: UUID) -> list[bool]:
    """Whether each of the rows is there."""
    async with engine.connect() as connection:
        there = set(await connection.scalars(select(model.id).where(model.id.in_(ids))))
    return [id in there for id in ids]


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.__tablename__)
async def test_what_nothing_needs_goes_some_time_after_it_was_withdrawn(engine: AsyncEngine, model: Any) -> None:
    async with engine.begin() as tx:
        old = await add(tx, model)
        young = await add(tx, model, withdrawn_at=NOW)
        back = await add(tx, model, is_available=True)  # as the version before offers it again
        early = await add(tx, model, withdrawn_at=None)  # as the version before withdraws it
    await housekeeping.delete_expired(engine, 0)
    assert await kept(engine, model, old) == [True]
    await housekeeping.delete_expired(engine, DAYS)
    assert await kept(engine, model, old, young, back, early) == [False, True, True, True]


async def _vm(tx: AsyncConnection, **values: Any) -> VM:
    return await add_vm(tx, await add_user(tx), **values)


async def _deciding(tx: AsyncConnection, id: UUID) -> None:
    vm = await _vm(tx, status=Status.VERIFY_RESIZE)
    input = INPUTS[Action.RESIZE] | {"previous_flavor_id": str(id)}
    await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED, input=input)


async def _resizing(tx: AsyncConnection, id: UUID) -> None:
    vm = await _vm(tx, status=Status.RESIZING, task_state=TaskState.RESIZE_PREP)
    await add_operation(tx, vm, Action.RESIZE, input=INPUTS[Action.RESIZE] | {"flavor_id": str(id)})


async def _deleted_snapshot(tx: AsyncConnection, id: UUID) -> None:
    await add_snapshot(tx, await _vm(tx), status=SnapshotStatus.DELETED, image_id=id)


async def _found(tx: AsyncConnection, **values: Any) -> None:
    row = {"cloud_id": str(uuid4()), "vm_id": uuid4(), "name": "old", "status": "ACTIVE", "flavor": "small"}
    row |= {"vcpus": 1, "ram_mb": 512, "disk_gb": 20, "volumes": [], "interfaces": [], "created_at": NOW}
    await tx.execute(insert(FoundServer).values(row | values))


async def _snapshot_flavor(tx: AsyncConnection, id: UUID) -> None:
    await add_snapshot(tx, await _vm(tx), flavor_id=id)


async def _volume(tx: AsyncConnection, id: UUID) -> None:
    await add_volume(tx, await add_user(tx), image_id=id)


async def _interface(tx: AsyncConnection, id: UUID) -> None:
    await add_interface(tx, await _vm(tx), network_id=id)


USES: dict[str, tuple[Any, Use]] = {
    "a flavor of a VM": (Flavor, lambda tx, row: _vm(tx, flavor_id=row)),
    "a flavor of a DELETED VM": (Flavor, lambda tx, row: _vm(tx, flavor_id=row, status=Status.DELETED)),
    "a flavor to go back to": (Flavor, _deciding),
    "a flavor of a running resize": (Flavor, _resizing),
    "an image of a VM": (Image, lambda tx, row: _vm(tx, image_id=row)),
    "an image of a DELETED snapshot": (Image, _deleted_snapshot),
    "an image of a found server": (Image, lambda tx, row: _found(tx, image_id=row)),
    "a network of a found server": (Network, lambda tx, row: _found(tx, interfaces=[{"network_id": str(row), "x": 1}])),
    "a flavor of a snapshot": (Flavor, _snapshot_flavor),
    "an image of a volume": (Image, _volume),
    "a network of an interface": (Network, _interface),
}


@pytest.mark.parametrize("use", USES)
async def test_what_something_needs_stays(engine: AsyncEngine, caplog: pytest.LogCaptureFixture, use: str) -> None:
    model, refer = USES[use]
    async with engine.begin() as tx:
        used, unused = await add(tx, model), await add(tx, model)
        await refer(tx, used)
    await housekeeping.delete_expired(engine, DAYS)
    assert await kept(engine, model, used, unused) == [True, False]
    assert "could not be deleted" not in caplog.text


async def test_rows_in_use_do_not_keep_those_behind_them(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLOW_BATCH", 2)
    async with engine.begin() as tx:
        used = [await add(tx, Image) for _ in range(5)]
        for id in used:
            await _vm(tx, image_id=id)
        unused = [await add(tx, Image, withdrawn_at=LONG_AGO + timedelta(hours=1)) for _ in range(3)]
    await housekeeping.delete_expired(engine, DAYS)
    assert await kept(engine, Image, *used, *unused) == [True] * 5 + [False] * 3


async def test_a_resize_whose_flavor_is_gone_can_no_longer_be_decided(engine: AsyncEngine) -> None:
    """A reset took the VM out of VERIFY_RESIZE. A reset back to it is refused once the flavor before is gone."""
    async with engine.begin() as tx:
        old = await add(tx, Flavor)
        vm = await _vm(tx, status=Status.VERIFY_RESIZE)
        input = INPUTS[Action.RESIZE] | {"previous_flavor_id": str(old)}
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED, input=input)
        assert await undecided_resize(tx, vm.id) is not None
        await tx.execute(update(VM).values(status=Status.ACTIVE))
    await housekeeping.delete_expired(engine, DAYS)
    async with engine.begin() as tx:
        assert await undecided_resize(tx, vm.id) is None
