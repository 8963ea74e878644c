"""Rows of a user's VMs, snapshots, volumes and attachments, and checks that their tests share."""

from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Attachment, Operation, Snapshot, Volume
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from tests.api.conftest import Person, operations_of
from tests.support.rows import add_attachment, add_snapshot, add_vm, add_volume, read_operation, read_vm

VOLUME_OF = {
    AttachmentStatus.ATTACHING: VolumeStatus.ATTACHING,
    AttachmentStatus.ATTACHED: VolumeStatus.IN_USE,
    AttachmentStatus.DETACHING: VolumeStatus.DETACHING,
}

NO_ID = "00000000-0000-4000-8000-000000000000"  # of nothing; always the same, as a part of the names of tests must be


async def vm_of(ada: Person, engine: AsyncEngine, **state: Any) -> VM:
    """A VM of the user in this state."""
    async with engine.begin() as tx:
        return await add_vm(tx, ada.user, **state)


async def volume_of(ada: Person, engine: AsyncEngine, **state: Any) -> Volume:
    """A volume of the user in this state."""
    async with engine.begin() as tx:
        return await add_volume(tx, ada.user, **state)


async def snapshot_of(
    vm: VM, engine: AsyncEngine, status: SnapshotStatus = SnapshotStatus.AVAILABLE, **values: Any
) -> Snapshot:
    """A snapshot of the VM with this status."""
    async with engine.begin() as tx:
        return await add_snapshot(tx, vm, status=status, **values)


async def attached_to(
    vm: VM, ada: Person, engine: AsyncEngine, status: AttachmentStatus = AttachmentStatus.ATTACHED, **values: Any
) -> tuple[Volume, Attachment]:
    """A volume of the user and its attachment to the VM, with this status."""
    async with engine.begin() as tx:
        volume = await add_volume(tx, ada.user, status=VOLUME_OF[status])
        return volume, await add_attachment(tx, vm, volume, status=status, **values)


async def set_vm(engine: AsyncEngine, vm: VM, **values: Any) -> None:
    """Change the VM's row directly, without an operation."""
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == vm.id).values(**values))


async def operation_of(ada: Person, engine: AsyncEngine, answer: httpx.Response) -> Operation:
    """The operation that the answer names in Operation-Location, where the user can read it."""
    location = answer.headers["Operation-Location"]
    read = await ada.http.get(f"http://api{location}")
    assert read.status_code == 200, read.text
    assert location == f"/api/v1/operations/{read.json()['id']}"
    return await read_operation(engine, UUID(read.json()["id"]))


async def check_create_answer(ada: Person, engine: AsyncEngine, answer: httpx.Response, path: str) -> Operation:
    """Check what all answers to a POST of a new resource have in common, and return its operation."""
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/api/v1{path}"
    assert answer.headers["Retry-After"] == "1"
    assert (await ada.http.get(path)).json() == answer.json()
    operation = await operation_of(ada, engine, answer)
    assert str(operation.id) == answer.json()["operation_id"]
    return operation


async def check_delete_answer(ada: Person, engine: AsyncEngine, answer: httpx.Response) -> Operation:
    """Check what all answers to a DELETE have in common, and return its operation."""
    assert (answer.status_code, answer.content) == (204, b""), answer.text
    assert "Retry-After" not in answer.headers
    return await operation_of(ada, engine, answer)


async def check_refused_and_unchanged(
    engine: AsyncEngine, vm: VM, answer: httpx.Response, code: str, **members: Any
) -> dict[str, Any]:
    """Check that the answer is this conflict and that the VM is unchanged, and return the problem."""
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (409, code), answer.text
    assert {name: problem[name] for name in members} == members
    assert await read_vm(engine, vm.id) == vm
    assert await operations_of(engine, vm.id) == []
    return problem


async def rows_of(engine: AsyncEngine, model: type[Any]) -> list[Any]:
    """Every row of the table, oldest first, without the columns that the dispatcher writes."""
    columns = [column for column in model.__table__.c if column.name not in {"deliver_after", "deliveries"}]
    async with engine.connect() as connection:
        oldest_first = select(*columns).order_by(model.created_at, *model.__table__.primary_key)
        return list((await connection.execute(oldest_first)).all())


def unknown_id() -> str:
    """An id that no row has."""
    return str(uuid4())
