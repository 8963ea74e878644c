"""An extension of an attached volume while its VM is being changed."""

import asyncio

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands.acceptance import Requester
from domain.commands.volumes import extend_volume
from domain.data.models import Attachment, Volume
from domain.data.queries import lock_vm
from domain.rules.errors import InvalidTransitionError
from domain.rules.resources import VolumeStatus
from tests.support.rows import add_attachment, add_user, add_vm, add_volume, note_vms_changed
from tests.support.waiting import poll


async def test_an_extension_waits_for_the_vm_before_it_locks_the_volume_and_sees_a_detach(engine: AsyncEngine) -> None:
    """All commands lock the VM first. In the other order, an extension and a delete would wait for each other."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        volume = await add_volume(tx, user, status=VolumeStatus.IN_USE)
        await add_attachment(tx, vm, volume)

    async def extend() -> None:
        async with engine.begin() as tx:
            await extend_volume(tx, Requester(user.id, user.username, "request"), volume.id, 20)

    async def waiting() -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with engine.connect() as connection:
            return int(await connection.scalar(text(query)) or 0)

    async with engine.begin() as tx:
        await lock_vm(tx, vm.id)
        extension = asyncio.create_task(extend())
        await poll(waiting, lambda number: number == 1)
        await tx.execute(select(Volume.id).where(Volume.id == volume.id).with_for_update(nowait=True))
        await note_vms_changed(tx)
        await tx.execute(delete(Attachment).where(Attachment.volume_id == volume.id))
    with pytest.raises(InvalidTransitionError):
        await extension
