"""Points at which a worker or an API can be made to die, put around the functions of the product from outside.

A point is named by where it is: `begins`, `returns` and `raises` are an activity's, before it does anything and before
its end is told to Temporal; `x -` and `x +` are just before and just after the commit of a transaction that does x, be
it a record of the service or an effect in the mock cloud, or before and after x where that is a call to Temporal. In
a worker the activity's name comes first.

Everything is told by files in a folder, since the processes die: which request (by its Idempotency-Key) is to die at
which point, which has, and what was passed when.
"""

import asyncio
import inspect
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import ExecuteActivityInput

from activities import interceptor
from activities.backends.mock import calls
from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import ComputeBackend, Token
from api.web.idempotency import Once
from domain.commands import resize_decisions
from domain.progress import outbox, resource_claims, step_records
from domain.rules.messages import FailOperationInput, OperationInput

HOLD: Final = 1.0  # seconds for which a process stands at a point, so that others come to theirs, before it dies
UNASKED: Final = "+"  # after a request's key: the operation that confirms its resize without being asked
EXECUTED: Final = "executed"
READS: Final = {"prepare", "close", "inventory", "list_servers", "list_ports", "list_images", "list_volumes"}
EFFECTS: Final = {name for name in vars(ComputeBackend) if not name.startswith("_")} - READS - {"poll_interval"}
BEGIN: Final = AsyncEngine.begin

Where = tuple[str, UUID]
"""A point, and the operation that comes to it."""


@dataclass
class Transaction:
    """What the transaction that is open here does, for which operations; and the token of an effect that it has."""

    does: list[Where] = field(default_factory=list)
    executes: Token | None = None


_transaction: ContextVar[Transaction | None] = ContextVar("_transaction", default=None)
_activity: ContextVar[Where | None] = ContextVar("_activity", default=None)
_effect: ContextVar[str] = ContextVar("_effect", default="")
_naming: ContextVar[bool] = ContextVar("_naming", default=False)


class Files:
    """The folder by which processes that die, and whoever has them die, tell each other everything."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.armed, self.fired = (folder / name for name in ("keys", "armed", "fired"))
        self.trace, self.deaths = folder / "trace", folder / "deaths"
        for made in (self.keys, self.armed, self.fired):
            made.mkdir(parents=True, exist_ok=True)

    def key_of(self, operation_id: UUID) -> str | None:
        """The key of the request that asked for an operation, if it had one."""
        with suppress(FileNotFoundError):
            return (self.keys / str(operation_id)).read_text()
        return None

    def fires(self, key: str, point: str) -> bool:
        """Whether a process is to die here, now: it happens once."""
        with suppress(FileNotFoundError, FileExistsError):
            if (self.armed / key).read_text() == point:
                with (self.fired / key).open("x") as fired:
                    fired.write(str(os.getpid()))
                return True
        return False

    def note(self, key: str, what: str) -> None:
        """Add a line to what was passed."""
        with self.trace.open("a") as trace:
            trace.write(f"{time.time():.3f} {key} {what}\n")

    def die(self) -> None:
        """End this process as the power would."""
        with self.deaths.open("a") as deaths:
            deaths.write(f"{time.time():.3f} {os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL)


files: Files


def install() -> None:
    """Put failpoints into this process."""
    global files  # noqa: PLW0603 - there is one folder, known only here
    files = Files(Path(os.environ["FAILPOINTS_FOLDER"]))
    _patch(AsyncEngine, "begin", _begin)
    for module in (step_records, resource_claims, outbox, resize_decisions):
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            if function.__module__ == module.__name__ and "tx" in inspect.signature(function).parameters:
                _patch(module, name, _naming_transaction(name, function))
    for name in EFFECTS:
        _patch(MockBackend, name, _inside(name, getattr(MockBackend, name)))
    _patch(MockBackend, "_take_fault", _inside("", MockBackend._take_fault))
    _patch(calls, "_apply_once", _counting(calls._apply_once))
    _patch(interceptor._Inbound, "execute_activity", _around_activity(interceptor._Inbound.execute_activity))
    _patch(Client, "start_workflow", _around_call("start_workflow", Client.start_workflow))
    _patch(WorkflowHandle, "signal", _around_call("signal", WorkflowHandle.signal))
    _patch(Once, "_keep", _accepting(Once._keep))


def _patch(owner: type | ModuleType, name: str, by: Any) -> None:
    setattr(owner, name, by)


async def _passes(*places: Where) -> None:
    """Note that operations pass points, and die if one is to."""
    fired = False
    for point, id in places:
        key = files.key_of(id)
        if key is not None:
            files.note(key, point)
            fired = files.fires(key, point) or fired
    if fired:
        asyncio.get_running_loop().call_later(HOLD, files.die)
        await asyncio.Event().wait()


@asynccontextmanager
async def _begin(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    transaction = Transaction()
    outer = _transaction.set(transaction)
    where = _activity.get()
    try:
        async with BEGIN(engine) as tx:
            yield tx
            if where and _effect.get():
                transaction.does.append((f"{where[0]} {_effect.get()}", where[1]))
            await _passes(*((f"{name} -", id) for name, id in transaction.does))
    finally:
        _transaction.reset(outer)
    if transaction.executes and (key := files.key_of(transaction.executes.operation_id)):
        files.note(key, f"{EXECUTED} {transaction.executes.step}")
    await _passes(*((f"{name} +", id) for name, id in transaction.does))


def _naming_transaction(name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A function that is called in a transaction, which is then known by its name."""

    async def named(*arguments: Any, **options: Any) -> Any:
        if _naming.get():
            return await function(*arguments, **options)
        inside = _naming.set(True)
        try:
            result = await function(*arguments, **options)
        finally:
            _naming.reset(inside)
        if (
            name == resize_decisions.confirm_by_window.__name__
            and result is not None
            and (key := files.key_of(arguments[2]))
        ):
            (files.keys / str(result.id)).write_text(key.removesuffix(UNASKED) + UNASKED)
        _does(name, [*_operations((*arguments, *options.values())), *_operations(result)])
        return result

    named.__name__ = name
    return named


def _does(name: str, operation_ids: list[UUID]) -> None:
    """Say what the open transaction does."""
    transaction, where = _transaction.get(), _activity.get()
    if transaction is not None:
        place = f"{where[0]} {name}" if where else name
        transaction.does += [(place, id) for id in dict.fromkeys(operation_ids)]


def _operations(value: Any) -> Iterator[UUID]:
    """Every operation that is said, whatever else is."""
    if isinstance(value, UUID):
        yield value
    elif isinstance(value, OperationInput):
        yield value.operation_id
    elif isinstance(value, FailOperationInput):
        yield value.operation.operation_id
    elif isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        for one in value:
            yield from _operations(one)
    elif hasattr(value, "workflow_id"):
        yield value.id


def _inside(effect: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A call of the cloud in which transactions have this effect."""

    async def inside(*arguments: Any, **options: Any) -> Any:
        outer = _effect.set(effect)
        try:
            return await function(*arguments, **options)
        finally:
            _effect.reset(outer)

    return inside


def _counting(once: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """See which tokens' effects are truly executed."""

    async def counting(tx: AsyncConnection, token: Token, effect: calls.Effect) -> None:
        async def counted(tx: AsyncConnection) -> None:
            await effect(tx)
            transaction = _transaction.get()
            assert transaction is not None
            transaction.executes = token

        await once(tx, token, counted)

    return counting


def _around_activity(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def around(inbound: Any, input: ExecuteActivityInput) -> Any:
        name, id = activity.info().activity_type, interceptor._operation(input).operation_id
        _activity.set((name, id))
        await _passes((f"{name} begins", id))
        try:
            result = await execute(inbound, input)
        except Exception:
            await _passes((f"{name} raises", id))
            raise
        await _passes((f"{name} returns", id))
        return result

    return around


def _around_call(name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """What the dispatcher asks of Temporal."""

    async def around(*arguments: Any, **options: Any) -> Any:
        ids = list(_operations([one for one in arguments if isinstance(one, OperationInput)]))
        await _passes(*((f"{name} -", id) for id in ids))
        result = await call(*arguments, **options)
        await _passes(*((f"{name} +", id) for id in ids))
        return result

    return around


def _accepting(keep: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The end of a request's transaction, from which on its operation is known."""

    async def accepting(once: Once, tx: AsyncConnection, fingerprint: str, answer: Any) -> None:
        await keep(once, tx, fingerprint, answer)
        location = answer.headers.get("operation-location")
        if location and once.key:
            id = UUID(location.rpartition("/")[2])
            (files.keys / str(id)).write_text(once.key)
            _does("accept", [id])

    return accepting
