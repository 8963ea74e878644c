"""A cloud for everybody's laptop: its servers, ports and migrations are rows, and it fails on demand.

A build takes as long as the settings say. The cloud is as durable as the database, shared by all workers,
idempotent by token, and refuses revoked tokens.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock_schema import (
    FaultMode,
    calls,
    create_schema,
    faults,
    hiccups,
    migrations,
    ports,
    revocations,
    servers,
)
from activities.backends.protocol import BackendError, Server, ServerSpec, Token
from domain.database import create_engine
from domain.messages import ServerStatus
from domain.settings import Settings

HOST_VCPUS: Final = 64
HOST_RAM_MB: Final = 262_144
HOST_DISK_GB: Final = 4_096
RESIZED: Final = {ServerStatus.RESIZE, ServerStatus.VERIFY_RESIZE, ServerStatus.REVERT_RESIZE}

Effect = Callable[[AsyncConnection], Awaitable[object]]


class MockBackend:
    """The mock cloud; see ComputeBackend for what its methods promise."""

    poll_interval = 0.2

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = create_engine(settings)

    async def prepare(self) -> None:
        async with self._engine.begin() as tx:
            await create_schema(tx)

    async def close(self) -> None:
        await self._engine.dispose()

    async def select_host(self, token: Token, spec: ServerSpec) -> None:
        async def place(_: AsyncConnection) -> None:
            if spec.vcpus > HOST_VCPUS or spec.ram_mb > HOST_RAM_MB or spec.disk_gb > HOST_DISK_GB:
                raise BackendError(
                    "no_valid_host", "No valid host was found: no host is large enough for the flavor.", retryable=False
                )

        await self._call("select_host", token, spec.vm_id, place)

    async def create_ports(self, token: Token, vm_id: UUID, network_ids: Collection[UUID]) -> None:
        async def plug(tx: AsyncConnection) -> None:
            if network_ids:
                rows = [{"vm_id": vm_id, "network_id": network_id} for network_id in network_ids]
                await tx.execute(insert(ports).values(rows))

        await self._call("create_ports", token, vm_id, plug)

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
                    status=ServerStatus.BUILD,
                    next_status=ServerStatus.ERROR if doomed else ServerStatus.ACTIVE,
                    next_fault="The mock cloud failed the build (MOCK_ERROR_RATE)." if doomed else None,
                    due_at=_in(self._settings.mock_build_delay),
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
            server = await _at_rest(tx, spec.vm_id, ServerStatus.ACTIVE, ServerStatus.SHUTOFF)
            values: dict[str, Any] = {
                "status": ServerStatus.RESIZE,
                "next_status": ServerStatus.ERROR if doomed else ServerStatus.VERIFY_RESIZE,
                "next_fault": "The mock cloud failed the resize (MOCK_ERROR_RATE)." if doomed else None,
                "due_at": _in(self._settings.mock_resize_delay),
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
        values: dict[str, Any] = {"status": meanwhile, "due_at": _in(self._settings.mock_resize_delay)}
        if self._is_doomed(token.operation_id):
            fault = "The mock cloud failed to end the resize (MOCK_ERROR_RATE)."
            values |= {"next_status": ServerStatus.ERROR, "next_fault": fault}
        else:
            values |= {"next_status": migration.old_status} | size
        await tx.execute(update(servers).where(servers.c.vm_id == migration.vm_id).values(values))

    async def delete_server(self, token: Token, vm_id: UUID) -> None:
        async def remove(tx: AsyncConnection) -> None:
            dying = (
                update(servers)
                .where(servers.c.vm_id == vm_id)
                .values(
                    status=ServerStatus.DELETING,
                    next_status=ServerStatus.GONE,
                    due_at=_in(self._settings.mock_delete_delay),
                )
            )
            if (await tx.execute(dying)).rowcount == 0:
                await _remove(tx, [vm_id])

        await self._call("delete_server", token, vm_id, remove, may_be_doomed=True)

    async def list_servers(self, vm_ids: Collection[UUID]) -> Mapping[UUID, Server]:
        async with self._engine.begin() as tx:
            await _let_time_pass(tx)
            rows = await tx.execute(select(servers).where(servers.c.vm_id.in_(vm_ids)))
            return {row.vm_id: _server(row) for row in rows}

    async def revoke(self, operation_id: UUID) -> None:
        async with self._engine.begin() as tx:
            await _lock_operation(tx, operation_id, "pg_advisory_xact_lock")
            await tx.execute(insert(revocations).values(operation_id=operation_id).on_conflict_do_nothing())

    async def purge(self, vm_id: UUID) -> None:
        async with self._engine.begin() as tx:
            await _remove(tx, [vm_id])

    async def _call(self, verb: str, token: Token, vm_id: UUID, effect: Effect, *, may_be_doomed: bool = False) -> None:
        fault = await self._take_fault(verb, token, vm_id)
        if fault is FaultMode.NEVER_ANSWER:
            await asyncio.Event().wait()
        if fault is FaultMode.FAIL:
            raise BackendError("mock_transient", f"The mock cloud failed {verb}; try again.", retryable=True)
        if fault is FaultMode.REFUSE:
            raise BackendError("mock_refused", f"The mock cloud refused {verb}.", retryable=False)
        if may_be_doomed and self._is_doomed(token.operation_id):
            raise BackendError("mock_error", f"The mock cloud failed {verb} (MOCK_ERROR_RATE).", retryable=False)
        async with self._engine.begin() as tx:
            await _once(tx, token, effect)
        if fault is FaultMode.FAIL_AFTER_EFFECT:
            raise BackendError("mock_lost_answer", f"The mock cloud lost the answer to {verb}.", retryable=True)

    async def _take_fault(self, verb: str, token: Token, vm_id: UUID) -> FaultMode | None:
        async with self._engine.begin() as tx:
            matches = and_(faults.c.verb == verb, or_(faults.c.vm_id.is_(None), faults.c.vm_id == vm_id))
            first = select(faults).where(matches).order_by(faults.c.id).limit(1).with_for_update()
            row = (await tx.execute(first)).one_or_none()
            if row is None:
                return await self._draw_transient(tx, token)
            if row.times == 1:
                await tx.execute(delete(faults).where(faults.c.id == row.id))
            elif row.times is not None:
                await tx.execute(update(faults).where(faults.c.id == row.id).values(times=row.times - 1))
            return FaultMode(row.mode)

    async def _draw_transient(self, tx: AsyncConnection, token: Token) -> FaultMode | None:
        if not _draw(f"{token.operation_id}/{token.step}", self._settings.mock_transient_rate):
            return None
        first = insert(hiccups).values(operation_id=token.operation_id, step=token.step).on_conflict_do_nothing()
        return FaultMode.FAIL if (await tx.execute(first)).rowcount else None

    def _is_doomed(self, operation_id: UUID) -> bool:
        return _draw(str(operation_id), self._settings.mock_error_rate)


async def _once(tx: AsyncConnection, token: Token, effect: Effect) -> None:
    await _lock_operation(tx, token.operation_id, "pg_advisory_xact_lock_shared")
    is_revoked = select(exists().where(revocations.c.operation_id == token.operation_id))
    if not token.compensates and await tx.scalar(is_revoked):
        raise BackendError("token_revoked", "The operation was revoked.", retryable=False)
    first = insert(calls).values(operation_id=token.operation_id, step=token.step).on_conflict_do_nothing()
    if (await tx.execute(first)).rowcount:
        await effect(tx)


async def _lock_operation(tx: AsyncConnection, operation_id: UUID, function: str) -> None:
    await tx.execute(text(f"SELECT {function}(hashtextextended(:id, 0))"), {"id": str(operation_id)})


async def _let_time_pass(tx: AsyncConnection) -> None:
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
    for kind in (ports, migrations):
        await tx.execute(delete(kind).where(kind.c.vm_id.in_(vm_ids)))


async def _living(tx: AsyncConnection, vm_id: UUID) -> Row[Any]:
    """The server's row, locked; refused where there is none, or not for long."""
    await _let_time_pass(tx)
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


def _server(row: Row[Any]) -> Server:
    return Server(
        row.vm_id,
        ServerStatus(row.status),
        row.vcpus,
        row.ram_mb,
        row.disk_gb,
        is_busy=row.due_at is not None,
        fault=row.fault,
    )


def _turning(vm_id: UUID, now: ServerStatus | None, then: ServerStatus, delay: float) -> Effect:
    async def change(tx: AsyncConnection) -> None:
        values = {"next_status": then, "due_at": _in(delay), "fault": None, "next_fault": None}
        if now is not None:
            values["status"] = now
        server = await _living(tx, vm_id)
        if server.status in RESIZED:
            raise _conflict(server)
        await tx.execute(update(servers).where(servers.c.vm_id == vm_id).values(values))

    return change


def _in(seconds: float) -> ColumnElement[object]:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _draw(seed: str, probability: float) -> bool:
    """A draw that comes out the same for the same seed, so that a retry cannot change an operation's luck."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    return number < probability * 2**64
