"""The mock cloud's servers. Settings say how long a build, a reboot and so on take (MOCK_*_DELAY)."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, Interval, Row, Uuid, any_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock import boot
from activities.backends.mock.calls import (
    COMPLETED,
    DOOMED,
    NO_HOST,
    check_state,
    clock_in,
    id_by_mark,
    is_meant,
    lock_idle_server,
    lock_server,
    means,
    refuse_volume_backed,
)
from activities.backends.mock.placement import groups_of, zone_of
from activities.backends.mock.ports import add_ports, marks_of_ports
from activities.backends.mock.power import MockPower
from activities.backends.mock.schema import images, migrations, servers, volumes
from activities.backends.mock.schema import ports as ports_table
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Fault, PortSpec, Ref, Server, ServerSpec
from domain.data.prepared import Prepared
from domain.rules.cloud import ServerStatus, VolumeState

HOST_VCPUS: Final = 64
HOST_RAM_MB: Final = 262_144
HOST_DISK_GB: Final = 4_096
STABLE: Final = (ServerStatus.ACTIVE, ServerStatus.SHUTOFF)
_SERVER_ID: Final = id_by_mark(servers.c.id, servers.c.vm_id)
_IS_ONE: Final = servers.c.vm_id == any_(bindparam("ids", type_=ARRAY(Uuid)))
_BY_VM: Final = Prepared(select(servers).where(_IS_ONE))
_COMPLETE: Final = Prepared(update(servers).where(_IS_ONE).values(COMPLETED).returning(servers.c.vm_id))
# SKIP LOCKED, because every list call of every worker does this. A server that is skipped is changed by the transaction
# that holds it, or by the next reader. Waiting for it would slow down every list call, and two readers that lock the
# same servers in a different order would deadlock.
_LOCK_DUE: Final = Prepared(
    select(servers.c.vm_id, servers.c.next_status)
    .where(servers.c.due_at <= func.clock_timestamp())
    .with_for_update(skip_locked=True)
)
_OF_REQUEST: Final = (
    *("vm_id", "name", "vcpus", "ram_mb", "disk_gb", "image_id", "content", "boot_volume_id", "user_data", "zone"),
    *("next_status", "next_fault"),
)
_BUILD: Final = Prepared(
    insert(servers)
    .values(
        {name: bindparam(name, type_=servers.c[name].type) for name in _OF_REQUEST}
        | {"status": ServerStatus.BUILD, "due_at": func.clock_timestamp() + bindparam("delay", type_=Interval)}
    )
    .returning(servers.c.vm_id)
)


class MockServers(MockPower):
    """Servers."""

    async def create_server(self, token: Token, spec: ServerSpec, ports: Collection[PortSpec] = ()) -> str:
        zone, _ = zone_of(spec.availability_zone), groups_of(spec.security_groups)
        boot.check_user_data(spec.user_data)
        has_host = _has_host(spec)
        fault = DOOMED.format("build") if self._is_doomed(token.operation_id) else None
        fault = fault if has_host else NO_HOST

        async def build(tx: AsyncConnection) -> None:
            disk = {"boot_volume_id": None} | await boot.disk_of(tx, spec)
            row = {
                **disk,
                "vm_id": spec.vm.id,
                "name": spec.name,
                "vcpus": spec.vcpus,
                "ram_mb": spec.ram_mb,
                "disk_gb": spec.disk_gb,
                "user_data": spec.user_data,
                "zone": zone,
                "next_status": ServerStatus.ERROR if fault else ServerStatus.ACTIVE,
                "next_fault": fault,
                "delay": timedelta(seconds=self._settings.mock_build_delay if has_host else 0),
            }
            await _BUILD.fetch_in(tx, row)
            await boot.attach_data(tx, spec)
            made = await marks_of_ports(tx, spec.vm.id)
            await add_ports(tx, spec.vm.id, [port for port in ports if port.interface.id not in made])

        await self._call("create_server", token, spec.vm.id, build)
        return await self._created("server", _SERVER_ID, spec.vm.id)

    async def resize_server(self, token: Token, spec: ServerSpec) -> None:
        doomed = self._is_doomed(token.operation_id)

        async def migrate(tx: AsyncConnection) -> None:
            server = await lock_idle_server(tx, spec.vm, *STABLE)
            if server_from(server).has_size_of(spec):
                message = "The cloud refused the resize, because the server has this flavor."
                raise BackendError("bad_request", message, retryable=False)
            values: dict[str, Any] = {
                "status": ServerStatus.RESIZE,
                "due_at": clock_in(self._settings.mock_resize_delay if _has_host(spec) else 0),
            }
            if not _has_host(spec):
                values |= {"next_status": server.status, "next_fault": None}
            elif doomed:
                values |= {"next_status": ServerStatus.ERROR, "next_fault": DOOMED.format("resize")}
            else:
                values |= {"next_status": ServerStatus.VERIFY_RESIZE, "next_fault": None}
                old = {f"old_{name}": getattr(server, name) for name in ("vcpus", "ram_mb", "disk_gb", "status")}
                await tx.execute(insert(migrations).values(vm_id=spec.vm.id, **old))
                values |= {"vcpus": spec.vcpus, "ram_mb": spec.ram_mb, "disk_gb": spec.disk_gb}
            await tx.execute(update(servers).where(servers.c.vm_id == spec.vm.id).values(values))

        await self._call("resize_server", token, spec.vm.id, migrate)

    async def confirm_server_resize(self, token: Token, vm: Ref) -> None:
        async def confirm(tx: AsyncConnection) -> None:
            if migration := await _take_migration(tx, vm):
                await self._end_resize(tx, token, migration, ServerStatus.VERIFY_RESIZE, {})

        await self._call("confirm_server_resize", token, vm.id, confirm)

    async def revert_server_resize(self, token: Token, vm: Ref) -> None:
        async def revert(tx: AsyncConnection) -> None:
            if migration := await _take_migration(tx, vm):
                old = {name: getattr(migration, f"old_{name}") for name in ("vcpus", "ram_mb", "disk_gb")}
                await self._end_resize(tx, token, migration, ServerStatus.REVERT_RESIZE, old)

        await self._call("revert_server_resize", token, vm.id, revert)

    async def _end_resize(
        self,
        tx: AsyncConnection,
        token: Token,
        migration: Row[Any],
        status: ServerStatus,
        size: dict[str, Any],
    ) -> None:
        """Show the server in `status` until the delay is over, then in the status that it had before the resize."""
        values: dict[str, Any] = {"status": status, "due_at": clock_in(self._settings.mock_resize_delay)}
        if self._is_doomed(token.operation_id):
            values |= {"next_status": ServerStatus.ERROR, "next_fault": DOOMED.format("end of the resize")}
        else:
            values |= {"next_status": migration.old_status} | size
        await tx.execute(update(servers).where(servers.c.vm_id == migration.vm_id).values(values))

    async def rebuild_server(self, token: Token, spec: ServerSpec) -> None:
        async def rebuild(tx: AsyncConnection) -> None:
            server = await lock_idle_server(tx, spec.vm, *STABLE)
            refuse_volume_backed(server)
            is_it = is_meant(images.c.id, images.c.cloud_id, spec.image)
            image = (await tx.execute(select(images).where(is_it))).one_or_none()
            if image is None:
                code = "invalid_image" if spec.image.cloud_id else "image_not_found"
                raise BackendError(code, "The cloud does not have the snapshot's image.", retryable=False)
            values: dict[str, Any] = {
                "status": ServerStatus.REBUILD,
                "due_at": clock_in(self._settings.mock_snapshot_delay),
            }
            if self._is_doomed(token.operation_id):
                values |= {"next_status": ServerStatus.ERROR, "next_fault": DOOMED.format("restore")}
            else:
                size = {"vcpus": spec.vcpus, "ram_mb": spec.ram_mb, "disk_gb": spec.disk_gb}
                values |= size | {"image_id": image.cloud_id, "content": image.content, "next_status": server.status}
            await tx.execute(update(servers).where(servers.c.vm_id == spec.vm.id).values(values))

        await self._call("rebuild_server", token, spec.vm.id, rebuild)

    async def delete_server(self, token: Token, vm: Ref) -> None:
        async def remove(tx: AsyncConnection) -> None:
            deletion = (
                update(servers)
                .where(is_meant(servers.c.vm_id, servers.c.id, vm))
                .values(
                    status=ServerStatus.DELETING,
                    next_status=ServerStatus.GONE,
                    due_at=clock_in(self._settings.mock_delete_delay),
                )
            )
            if (await tx.execute(deletion)).rowcount == 0:  # there is no server, but there may be ports
                await _remove(tx, vm)

        await self._call("delete_server", token, vm.id, remove, may_be_doomed=True)

    async def list_servers(self, vms: Collection[Ref]) -> Mapping[UUID, Server]:
        refs = {vm.id: vm for vm in vms}
        async with self._engine.begin() as tx:
            await apply_due_changes(tx)
            rows = await _BY_VM.fetch_in(tx, {"ids": list(refs)})
            return {row.vm_id: server_from(row) for row in rows if means(refs[row.vm_id], row.id)}

    async def is_over(self, operation_id: UUID, vm: Ref) -> bool:
        del operation_id, vm  # a call is over when the server is no longer busy, and every failure shows in its status
        return True

    async def purge(self, vm: Ref) -> None:
        async with self._engine.begin() as tx:
            await _remove(tx, vm)


async def _remove(tx: AsyncConnection, vm: Ref) -> None:
    """Remove the VM's server and ports, unless they are those of another server than the one that is meant."""
    id = await tx.scalar(select(servers.c.id).where(servers.c.vm_id == vm.id))
    if id is None or means(vm, id):
        await _remove_servers(tx, [vm.id])


def _has_host(spec: ServerSpec) -> bool:
    return spec.vcpus <= HOST_VCPUS and spec.ram_mb <= HOST_RAM_MB and spec.disk_gb <= HOST_DISK_GB


async def apply_due_changes(tx: AsyncConnection) -> None:
    """Complete the changes of servers that are due.

    Readers do this, so that no process has to wait for the time.
    """
    rows = await _LOCK_DUE.fetch_in(tx, {})
    gone = [row.vm_id for row in rows if row.next_status == ServerStatus.GONE]
    if gone:
        await _remove_servers(tx, gone)
    changed = [row.vm_id for row in rows if row.next_status != ServerStatus.GONE]
    if changed:
        await _COMPLETE.fetch_in(tx, {"ids": changed})


async def _remove_servers(tx: AsyncConnection, vm_ids: Collection[UUID]) -> None:
    """Remove the servers with their ports, and release their volumes."""
    # The server first and its volumes after it: attaching a volume locks them in the same order.
    await tx.execute(delete(servers).where(servers.c.vm_id.in_(vm_ids)))
    released = {"state": VolumeState.AVAILABLE, "vm_id": None, "device": None}
    await tx.execute(update(volumes).where(volumes.c.vm_id.in_(vm_ids)).values(released))
    for table in (ports_table, migrations):
        await tx.execute(delete(table).where(table.c.vm_id.in_(vm_ids)))


async def _take_migration(tx: AsyncConnection, vm: Ref) -> Row[Any] | None:
    """Delete the record of the server's old size and return it, so that only one confirm or revert gets it.

    None if the resize has been decided, which is no error: the caller looks at the size to learn how.
    """
    server = await lock_server(tx, vm)
    if server.status in STABLE and server.due_at is None:
        return None
    check_state(server, ServerStatus.VERIFY_RESIZE)
    return (await tx.execute(delete(migrations).where(migrations.c.vm_id == vm.id).returning(migrations))).one()


def server_from(row: Any) -> Server:
    """Return the server that a row describes."""
    return Server(
        row.vm_id,
        ServerStatus(row.status),
        row.vcpus,
        row.ram_mb,
        row.disk_gb,
        is_busy=row.due_at is not None,
        fault=_fault(row.fault) if row.fault else None,
        image_id=None if row.boot_volume_id else str(row.image_id),
        availability_zone=row.zone,
    )


def _fault(message: str) -> Fault:
    return Fault("no_valid_host" if message == NO_HOST else "server_error", message)
