"""The mock cloud's servers with their ports: a build takes as long as the settings say, and so do the others."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.calls import Effect, MockCalls, after
from activities.backends.mock.schema import images, migrations, ports, servers, volumes
from activities.backends.protocol import BackendError, Port, Server, ServerSpec, Token
from domain.rules.cloud import ServerStatus, VolumeState

HOST_VCPUS: Final = 64
HOST_RAM_MB: Final = 262_144
HOST_DISK_GB: Final = 4_096
REFUSE_POWER: Final = {
    ServerStatus.RESIZE,
    ServerStatus.VERIFY_RESIZE,
    ServerStatus.REVERT_RESIZE,
    ServerStatus.REBUILD,
}
AT_REST: Final = (ServerStatus.ACTIVE, ServerStatus.SHUTOFF)


class MockServers(MockCalls):
    """Servers and ports."""

    async def select_host(self, token: Token, spec: ServerSpec) -> None:
        async def place(_: AsyncConnection) -> None:
            if spec.vcpus > HOST_VCPUS or spec.ram_mb > HOST_RAM_MB or spec.disk_gb > HOST_DISK_GB:
                raise BackendError(
                    "no_valid_host", "No valid host was found: no host is large enough for the flavor.", retryable=False
                )

        await self._call("select_host", token, spec.vm_id, place)

    async def create_ports(self, token: Token, vm_id: UUID, wanted: Collection[Port]) -> None:
        async def make(tx: AsyncConnection) -> None:
            for port in wanted:
                await tx.execute(insert(ports).values(vm_id=vm_id, **asdict(port)))

        await self._call("create_ports", token, vm_id, make)

    async def create_server_interface(self, token: Token, vm_id: UUID, port: Port) -> None:
        async def plug(tx: AsyncConnection) -> None:
            await _living(tx, vm_id)
            await tx.execute(insert(ports).values(vm_id=vm_id, **asdict(port)))

        await self._call("create_server_interface", token, vm_id, plug, may_be_doomed=True)

    async def delete_server_interface(self, token: Token, vm_id: UUID, port_id: UUID) -> None:
        async def unplug(tx: AsyncConnection) -> None:
            await tx.execute(delete(ports).where(ports.c.id == port_id, ports.c.vm_id == vm_id))

        await self._call("delete_server_interface", token, vm_id, unplug, may_be_doomed=True)

    async def list_ports(self, vm_id: UUID) -> Collection[UUID]:
        async with self._engine.begin() as tx:
            return (await tx.scalars(select(ports.c.id).where(ports.c.vm_id == vm_id))).all()

    async def create_server(self, token: Token, spec: ServerSpec) -> None:
        doomed = self._is_doomed(token.operation_id)

        async def build(tx: AsyncConnection) -> None:
            await tx.execute(
                insert(servers).values(
                    vm_id=spec.vm_id,
                    name=spec.name,
                    vcpus=spec.vcpus,
                    ram_mb=spec.ram_mb,
                    disk_gb=spec.disk_gb,
                    image_id=spec.image_id,
                    content=str(uuid4()),
                    status=ServerStatus.BUILD,
                    next_status=ServerStatus.ERROR if doomed else ServerStatus.ACTIVE,
                    next_fault="The mock cloud failed the build (MOCK_ERROR_RATE)." if doomed else None,
                    due_at=after(self._settings.mock_build_delay),
                )
            )

        await self._call("create_server", token, spec.vm_id, build)

    async def start_server(self, token: Token, vm_id: UUID) -> None:
        change = _turning(vm_id, None, ServerStatus.ACTIVE, self._settings.mock_start_delay)
        await self._call("start_server", token, vm_id, change, may_be_doomed=True)

    async def stop_server(self, token: Token, vm_id: UUID) -> None:
        change = _turning(vm_id, None, ServerStatus.SHUTOFF, self._settings.mock_stop_delay)
        await self._call("stop_server", token, vm_id, change, may_be_doomed=True)

    async def reboot_server(self, token: Token, vm_id: UUID, *, hard: bool) -> None:
        del hard  # a mock guest cannot hang, so both kinds are the same to it
        change = _turning(vm_id, ServerStatus.REBOOT, ServerStatus.ACTIVE, self._settings.mock_reboot_delay)
        await self._call("reboot_server", token, vm_id, change, may_be_doomed=True)

    async def resize_server(self, token: Token, spec: ServerSpec) -> None:
        doomed = self._is_doomed(token.operation_id)

        async def migrate(tx: AsyncConnection) -> None:
            server = await _at_rest(tx, spec.vm_id, *AT_REST)
            values: dict[str, Any] = {
                "status": ServerStatus.RESIZE,
                "next_status": ServerStatus.ERROR if doomed else ServerStatus.VERIFY_RESIZE,
                "next_fault": "The mock cloud failed the resize (MOCK_ERROR_RATE)." if doomed else None,
                "due_at": after(self._settings.mock_resize_delay),
            }
            if not doomed:
                old = {f"old_{name}": getattr(server, name) for name in ("vcpus", "ram_mb", "disk_gb", "status")}
                await tx.execute(insert(migrations).values(vm_id=spec.vm_id, **old))
                values |= {"vcpus": spec.vcpus, "ram_mb": spec.ram_mb, "disk_gb": spec.disk_gb}
            await tx.execute(update(servers).where(servers.c.vm_id == spec.vm_id).values(values))

        await self._call("resize_server", token, spec.vm_id, migrate)

    async def confirm_server_resize(self, token: Token, vm_id: UUID) -> None:
        async def confirm(tx: AsyncConnection) -> None:
            migration = await _take_migration(tx, vm_id)
            await self._leave_resize(tx, token, migration, ServerStatus.VERIFY_RESIZE, {})

        await self._call("confirm_server_resize", token, vm_id, confirm)

    async def revert_server_resize(self, token: Token, vm_id: UUID) -> None:
        async def revert(tx: AsyncConnection) -> None:
            migration = await _take_migration(tx, vm_id)
            old = {name: getattr(migration, f"old_{name}") for name in ("vcpus", "ram_mb", "disk_gb")}
            await self._leave_resize(tx, token, migration, ServerStatus.REVERT_RESIZE, old)

        await self._call("revert_server_resize", token, vm_id, revert)

    async def _leave_resize(
        self,
        tx: AsyncConnection,
        token: Token,
        migration: Row[Any],
        meanwhile: ServerStatus,
        size: dict[str, Any],
    ) -> None:
        values: dict[str, Any] = {"status": meanwhile, "due_at": after(self._settings.mock_resize_delay)}
        if self._is_doomed(token.operation_id):
            fault = "The mock cloud failed to end the resize (MOCK_ERROR_RATE)."
            values |= {"next_status": ServerStatus.ERROR, "next_fault": fault}
        else:
            values |= {"next_status": migration.old_status} | size
        await tx.execute(update(servers).where(servers.c.vm_id == migration.vm_id).values(values))

    async def rebuild_server(self, token: Token, spec: ServerSpec) -> None:
        async def rebuild(tx: AsyncConnection) -> None:
            server = await _at_rest(tx, spec.vm_id, *AT_REST)
            image = (await tx.execute(select(images).where(images.c.id == spec.image_id))).one_or_none()
            if image is None:
                raise BackendError("image_not_found", "The cloud does not have the snapshot's image.", retryable=False)
            values: dict[str, Any] = {
                "status": ServerStatus.REBUILD,
                "due_at": after(self._settings.mock_snapshot_delay),
            }
            if self._is_doomed(token.operation_id):
                fault = "The mock cloud failed the restore (MOCK_ERROR_RATE)."
                values |= {"next_status": ServerStatus.ERROR, "next_fault": fault}
            else:
                size = {"vcpus": spec.vcpus, "ram_mb": spec.ram_mb, "disk_gb": spec.disk_gb}
                values |= size | {"image_id": image.id, "content": image.content, "next_status": server.status}
            await tx.execute(update(servers).where(servers.c.vm_id == spec.vm_id).values(values))

        await self._call("rebuild_server", token, spec.vm_id, rebuild)

    async def delete_server(self, token: Token, vm_id: UUID) -> None:
        async def remove(tx: AsyncConnection) -> None:
            dying = (
                update(servers)
                .where(servers.c.vm_id == vm_id)
                .values(
                    status=ServerStatus.DELETING,
                    next_status=ServerStatus.GONE,
                    due_at=after(self._settings.mock_delete_delay),
                )
            )
            if (await tx.execute(dying)).rowcount == 0:
                await _remove(tx, [vm_id])

        await self._call("delete_server", token, vm_id, remove, may_be_doomed=True)

    async def list_servers(self, vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        async with self._engine.begin() as tx:
            await let_time_pass(tx)
            rows = await tx.execute(select(servers).where(servers.c.vm_id.in_(vm_ids)))
            return {row.vm_id: server_of(row) for row in rows}

    async def purge(self, vm_id: UUID) -> None:
        async with self._engine.begin() as tx:
            await _remove(tx, [vm_id])


async def let_time_pass(tx: AsyncConnection) -> None:
    """Let servers become what they are due to be."""
    due = select(servers.c.vm_id, servers.c.next_status).where(servers.c.due_at <= func.clock_timestamp())
    rows = (await tx.execute(due.with_for_update(skip_locked=True))).all()
    gone = [row.vm_id for row in rows if row.next_status == ServerStatus.GONE]
    if gone:
        await _remove(tx, gone)
    turned = [row.vm_id for row in rows if row.next_status != ServerStatus.GONE]
    if turned:
        then = {"status": servers.c.next_status, "fault": servers.c.next_fault}
        spent = {"next_status": None, "next_fault": None, "due_at": None}
        await tx.execute(update(servers).where(servers.c.vm_id.in_(turned)).values(then | spent))


async def _remove(tx: AsyncConnection, vm_ids: Collection[UUID]) -> None:
    await tx.execute(delete(servers).where(servers.c.vm_id.in_(vm_ids)))
    free = {"state": VolumeState.AVAILABLE, "vm_id": None, "device": None}
    await tx.execute(update(volumes).where(volumes.c.vm_id.in_(vm_ids)).values(free))
    for kind in (ports, migrations):
        await tx.execute(delete(kind).where(kind.c.vm_id.in_(vm_ids)))


async def _living(tx: AsyncConnection, vm_id: UUID) -> Row[Any]:
    """The server's row, locked; refused where there is none, or not for long."""
    await let_time_pass(tx)
    server = (await tx.execute(select(servers).where(servers.c.vm_id == vm_id).with_for_update())).one_or_none()
    if server is None or server.status == ServerStatus.DELETING:
        raise BackendError("server_not_found", "The cloud has no server for this VM.", retryable=False)
    return server


async def _at_rest(tx: AsyncConnection, vm_id: UUID, *statuses: ServerStatus) -> Row[Any]:
    """The server's row, locked; refused unless it is in one of the statuses and nothing is done to it."""
    server = await _living(tx, vm_id)
    if server.status not in statuses or server.due_at is not None:
        raise _conflict(server)
    return server


def _conflict(server: Row[Any]) -> BackendError:
    """What Nova answers 409 to."""
    return BackendError("server_conflict", f"The cloud does not do this in status {server.status}.", retryable=False)


async def _take_migration(tx: AsyncConnection, vm_id: UUID) -> Row[Any]:
    await _at_rest(tx, vm_id, ServerStatus.VERIFY_RESIZE)
    return (await tx.execute(delete(migrations).where(migrations.c.vm_id == vm_id).returning(migrations))).one()


def server_of(row: Row[Any]) -> Server:
    """The server as a row of the mock cloud has it."""
    return Server(
        row.vm_id,
        ServerStatus(row.status),
        row.vcpus,
        row.ram_mb,
        row.disk_gb,
        is_busy=row.due_at is not None,
        fault=row.fault,
        image_id=row.image_id,
    )


def _turning(vm_id: UUID, now: ServerStatus | None, then: ServerStatus, delay: float) -> Effect:
    async def change(tx: AsyncConnection) -> None:
        values = {"next_status": then, "due_at": after(delay), "fault": None, "next_fault": None}
        if then is ServerStatus.ACTIVE:
            values["content"] = str(uuid4())  # the guest writes to its disk when it boots
        if now is not None:
            values["status"] = now
        server = await _living(tx, vm_id)
        if server.status in REFUSE_POWER:
            raise _conflict(server)
        await tx.execute(update(servers).where(servers.c.vm_id == vm_id).values(values))

    return change
