"""Every call to the mock cloud: it may fail, by a scripted fault or by chance, and takes effect once per token."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.schema import (
    FaultMode,
    calls,
    create_schema,
    faults,
    revocations,
    servers,
    transient_failures,
)
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from domain.data import database, outages
from domain.data.prepared import Prepared
from domain.rules.cloud import ServerStatus
from domain.settings import Settings

Effect = Callable[[AsyncConnection], Awaitable[object]]
COMPLETED: Final = {
    "status": servers.c.next_status,
    "fault": servers.c.next_fault,
    **dict.fromkeys(("next_status", "next_fault", "due_at"), null()),
}
"""What a server becomes when its change is due."""
NO_HOST: Final = "No valid host was found. No host is large enough for the flavor."
DOOMED: Final = "The mock cloud failed the {} (MOCK_ERROR_RATE)."
_FAILED_BUILDS: Final = {NO_HOST, DOOMED.format("build")}
_RUNNING_OR_OFF: Final = frozenset({ServerStatus.ACTIVE, ServerStatus.SHUTOFF})
_STATES_BEFORE: Final = {
    ServerStatus.REBOOT: _RUNNING_OR_OFF,
    ServerStatus.RESIZE: _RUNNING_OR_OFF,
    ServerStatus.REBUILD: _RUNNING_OR_OFF,
    ServerStatus.REVERT_RESIZE: frozenset({ServerStatus.VERIFY_RESIZE}),
}
"""Some statuses name a change that goes on. Nova may still see the server as it was before: in one of these."""
_HAS_FAULT: Final = Prepared(
    select(
        exists()
        .where(
            faults.c.verb == bindparam("verb"),
            or_(faults.c.vm_id.is_(None), faults.c.vm_id == bindparam("target")),
        )
        .label("has_fault")
    )
)


def _lock(function: str) -> Prepared:
    # An advisory lock, because the cloud has no row of an operation that could be locked.
    key = func.hashtextextended(bindparam("operation", type_=Text), literal_column("0"))
    return Prepared(select(getattr(func, function)(key).label("is_locked")))


_LOCK, _LOCK_SHARED = _lock("pg_advisory_xact_lock"), _lock("pg_advisory_xact_lock_shared")
_IS_REVOKED: Final = exists().where(revocations.c.operation_id == bindparam("id", type_=Uuid))
_CHECK_REVOKED: Final = Prepared(select(_IS_REVOKED.label("is_revoked")))
_USE_TOKEN: Final = Prepared(
    insert(calls)
    .from_select(
        ["operation_id", "step"],
        select(bindparam("id", type_=Uuid), bindparam("step", type_=Text)).where(
            or_(bindparam("compensates", type_=Boolean), ~_IS_REVOKED)
        ),
    )
    .on_conflict_do_nothing()
    .returning(calls.c.step)
)
_IS_SERVER: Final = servers.c.vm_id == bindparam("vm", type_=Uuid)
_IS_DUE: Final = and_(servers.c.due_at <= func.clock_timestamp(), servers.c.next_status != ServerStatus.GONE)
_LOCK_SERVER: Final = Prepared(select(servers, _IS_DUE.label("is_due")).where(_IS_SERVER).with_for_update())
_COMPLETE: Final = Prepared(update(servers).where(_IS_SERVER).values(COMPLETED).returning(*servers.c))
_ADDRESSES: Final = frozenset({"uq_ports_ip_address", "uq_ports_mac_address"})


class MockCalls:
    """The base of all parts of the mock cloud."""

    poll_interval = 0.2
    poll_timeout = 10.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = database.create_engine(settings)
        self._autocommit = database.autocommit(self._engine)

    async def prepare(self) -> None:
        async with self._engine.begin() as tx:
            await create_schema(tx)

    async def close(self) -> None:
        await database.close(self._engine)

    async def identity(self) -> str:
        return "mock"  # it is in the service's own database, so there is only one

    async def revoke(self, operation_id: UUID) -> None:
        # Calls hold the operation's lock shared, this takes it exclusively. So it waits for the calls that are running,
        # and calls that come later wait for it and then see the revocation.
        async with self._engine.begin() as tx:
            await _LOCK.fetch_in(tx, {"operation": str(operation_id)})
            await tx.execute(insert(revocations).values(operation_id=operation_id).on_conflict_do_nothing())

    async def _call(
        self, verb: str, token: Token, target: UUID, effect: Effect, *, may_be_doomed: bool = False
    ) -> None:
        """Make one call: fail as faults and rates say, or apply the effect.

        With `may_be_doomed`, the call itself fails if MOCK_ERROR_RATE hits the operation. Without it, the effect must
        show that failure, usually by a server that ends in ERROR.
        """
        fault = await self._take_fault(verb, token, target)
        if fault is FaultMode.NEVER_ANSWER:
            await asyncio.Event().wait()
        if fault is FaultMode.FAIL:
            raise BackendError("mock_transient", f"The mock cloud failed {verb}; try again.", retryable=True)
        if fault is FaultMode.REFUSE:
            raise BackendError("mock_refused", f"The mock cloud refused {verb}.", retryable=False)
        if may_be_doomed and not token.compensates and self._is_doomed(token.operation_id):
            raise BackendError("mock_error", f"The mock cloud failed {verb} (MOCK_ERROR_RATE).", retryable=False)
        try:
            async with self._engine.begin() as tx:
                await _apply_once(tx, token, effect)
        except IntegrityError as error:
            code = "address_in_use" if _violated(error) in _ADDRESSES else "conflict"
            message = f"The mock cloud refused {verb}: its device or address is already in use."
            raise BackendError(code, message, retryable=False) from None
        if fault is FaultMode.FAIL_AFTER_EFFECT:
            raise BackendError("mock_lost_answer", f"The mock cloud lost the answer to {verb}.", retryable=True)

    async def _created(self, kind: str, its_id: Prepared, mark: UUID) -> str:
        """Return the cloud's id of what a call has created, found by its mark: a second call returns the same."""
        for row in await its_id.fetch(self._engine, {"mark": mark}):
            return str(row.cloud_id)
        raise BackendError(f"{kind}_gone", f"The cloud no longer has the {kind}.", retryable=False)

    async def _take_fault(self, verb: str, token: Token, target: UUID) -> FaultMode | None:
        """Return how this call must fail, if it must, and count the fault as used."""
        if not self._settings.mock_transient_rate:
            # Without a fault, which is the usual case, one round trip is enough.
            (found,) = await _HAS_FAULT.fetch(self._engine, {"verb": verb, "target": target})
            if not found.has_fault:
                return None
        matches = and_(faults.c.verb == verb, or_(faults.c.vm_id.is_(None), faults.c.vm_id == target))
        async with self._engine.begin() as tx:
            first = select(faults).where(matches).order_by(faults.c.id).limit(1).with_for_update()
            fault = (await tx.execute(first)).one_or_none()
            if fault is None:
                return await self._take_transient_failure(tx, token)
            if fault.times == 1:
                await tx.execute(delete(faults).where(faults.c.id == fault.id))
            elif fault.times is not None:
                await tx.execute(update(faults).where(faults.c.id == fault.id).values(times=fault.times - 1))
            return FaultMode(fault.mode)

    async def _take_transient_failure(self, tx: AsyncConnection, token: Token) -> FaultMode | None:
        """Fail the first call of a token that MOCK_TRANSIENT_RATE hits; the row lets the next one through."""
        if not _is_hit(f"{token.operation_id}/{token.step}", self._settings.mock_transient_rate):
            return None
        row = {"operation_id": token.operation_id, "step": token.step}
        first = insert(transient_failures).values(row).on_conflict_do_nothing()
        return FaultMode.FAIL if (await tx.execute(first)).rowcount else None

    def _is_doomed(self, operation_id: UUID) -> bool:
        """Return whether MOCK_ERROR_RATE makes the operation fail for good."""
        return _is_hit(str(operation_id), self._settings.mock_error_rate)


async def _apply_once(tx: AsyncConnection, token: Token, effect: Effect) -> None:
    """Apply the effect unless the token was used before; BackendError if its operation is revoked."""
    # Shared, so that calls of one operation may run side by side; `revoke` waits for all of them. Lock before reading:
    # without the lock a revocation could commit between the check and the effect.
    await _LOCK_SHARED.fetch_in(tx, {"operation": str(token.operation_id)})
    # Of two calls with one token, the second waits here until the first commits, and then inserts nothing. The row and
    # the effect commit together, so a call that failed leaves its token unused.
    its = {"id": token.operation_id}
    if await _USE_TOKEN.fetch_in(tx, {**its, "step": token.step, "compensates": token.compensates}):
        await effect(tx)
        return
    (found,) = await _CHECK_REVOKED.fetch_in(tx, its)
    if found.is_revoked and not token.compensates:
        message = "The cloud refused the call, because its operation was revoked."
        raise BackendError("token_revoked", message, retryable=False)


def id_by_mark(cloud_id: ColumnElement[UUID], mark: ColumnElement[UUID]) -> Prepared:
    """Return the statement that finds the cloud's id of a resource by our id of it."""
    return Prepared(select(cloud_id.label("cloud_id")).where(mark == bindparam("mark", type_=Uuid)))


def clock_in(seconds: float) -> ColumnElement[object]:
    """Return the database's wall clock time in that many seconds."""
    return func.clock_timestamp() + timedelta(seconds=seconds)


def is_one_of(column: ColumnElement[UUID], ids: Collection[UUID]) -> ColumnElement[bool]:
    """Return a condition: the column has one of these values. There may be thousands."""
    # One array parameter: an IN list has a parameter for each value, and is a new statement for each length.
    return column == any_(cast(list(ids), ARRAY(Uuid)))


def means(ref: Ref, cloud_id: UUID) -> bool:
    """Return whether the ref means the resource that has our id and this id of the cloud."""
    return ref.cloud_id in {None, str(cloud_id)}


def is_meant(id: ColumnElement[UUID], cloud_id: ColumnElement[UUID], ref: Ref) -> ColumnElement[bool]:
    """Return a condition: the row is the resource that the ref means."""
    return id == ref.id if ref.cloud_id is None else and_(id == ref.id, cast(cloud_id, Text) == ref.cloud_id)


async def lock_server(tx: AsyncConnection, vm: Ref) -> Any:
    """Lock the VM's server and return its row; BackendError if it does not exist or is being deleted."""
    # This server and no other: two calls that had each locked the other's server would wait for ever.
    found = await _LOCK_SERVER.fetch_in(tx, {"vm": vm.id})
    if found and found[0].is_due:
        found = await _COMPLETE.fetch_in(tx, {"vm": vm.id})
    return live(found[0] if found else None, vm)


async def lock_idle_server(tx: AsyncConnection, vm: Ref, *states: ServerStatus) -> Any:
    """Lock the VM's server and return its row; BackendError also unless it is in one of the states and not busy."""
    server = await lock_server(tx, vm)
    check_state(server, *states)
    return server


def check_state(server: Any, *states: ServerStatus) -> None:
    """Raise what Nova's 409 means: it allows each call in some states, and only if nothing goes on at the server.

    A server that is busy is still in the state that it had before. One whose build failed has no host, and can only be
    deleted.
    """
    status = ServerStatus(server.status)
    now = _STATES_BEFORE.get(status, {status})
    if now.isdisjoint(states) or (status is ServerStatus.ERROR and server.fault in _FAILED_BUILDS):
        message = f"The cloud refused the call, because the server is in status {server.status}."
        raise BackendError("conflict", message, retryable=False)
    if server.due_at is not None:
        message = f"The cloud refused the call, because the server, in status {server.status}, is still being changed."
        raise BackendError("busy", message, retryable=True)


def live(server: Any, vm: Ref) -> Any:
    """Return the server; BackendError if the VM has none or it is being deleted."""
    if server is None or server.status == ServerStatus.DELETING or not means(vm, server.id):
        raise BackendError("server_not_found", "The cloud has no server for this VM.", retryable=False)
    return server


def refuse_volume_backed(server: Any) -> None:
    """Raise a BackendError if the server boots from a volume, as for calls that the other backend refuses then."""
    if server.boot_volume_id is not None:
        message = "A server that boots from a volume has no disk of its own."
        raise BackendError("not_supported_by_cloud", message, retryable=False)


def _violated(error: IntegrityError) -> str:
    """Return the name of the constraint that a statement violates."""
    return str(getattr(outages.original(error), "constraint_name", ""))


def _is_hit(seed: str, probability: float) -> bool:
    """Return true with this probability, and always the same for one seed: a retry cannot change the result."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    return number < probability * 2**64
