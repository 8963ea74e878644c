"""Failpoints: places at which a worker or an API process can be made to die. They wrap the product's functions.

Names of points: `<activity> begins`, `<activity> returns` and `<activity> raises` are before an activity does anything
and before its result is reported to Temporal. `<name> -` and `<name> +` are just before and just after the commit of
the transaction in which the function <name> was called, which writes the service's records or has an effect in the mock
cloud; if <name> is a call to Temporal, they are before and after the call. In a worker the activity's name comes first.

A point is matched by a request and a name: the process dies if an operation of the request with the armed
Idempotency-Key comes to the armed point. Since the processes die, all communication is by files in a folder: which
request dies where (`armed`), which has died (`fired`), and which points were passed when (`trace`).
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
from domain.progress import outbox, quick_records, resource_claims, step_records
from domain.rules.messages import FailOperationInput, OperationInput

# Seconds between reaching a point and dying: other operations of the batch come to their points in the same process
# meanwhile, and all of them are covered by one death.
HOLD: Final = 1.0
AUTO_CONFIRM: Final = "+"  # appended to a request's key: the operation that confirms its resize automatically
EXECUTED, LOOKS = "executed", ("read_", "can_", "check_")  # LOOKS: so begin the names of functions that write nothing
READS: Final = {
    *("prepare", "close", "identity", "inventory", "is_over", "list_catalogue", "list_other_servers"),
    *("list_servers", "list_ports", "list_images", "list_volumes", "get_server_console_output", "create_console"),
}
EFFECTS: Final = (
    {name for name in vars(ComputeBackend) if not name.startswith("_")} - READS - {"poll_interval", "poll_timeout"}
)
BEGIN: Final = AsyncEngine.begin

Place = tuple[str, UUID]
"""A point, or an activity, and the operation that comes to it."""
AsyncFunction = Callable[..., Awaitable[Any]]


@dataclass
class Transaction:
    """What the open transaction does for which operations, and the token of the effect that it executes, if any."""

    places: list[Place] = field(default_factory=list)
    executes: Token | None = None


# Context variables, since many activities and requests run in one process at the same time.
_transaction: ContextVar[Transaction | None] = ContextVar("_transaction", default=None)
_activity: ContextVar[Place | None] = ContextVar("_activity", default=None)
_effect: ContextVar[str] = ContextVar("_effect", default="")
_is_inside_named: ContextVar[bool] = ContextVar("_is_inside_named", default=False)


class Files:
    """The folder through which the test and the processes that die communicate."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.armed, self.fired = (folder / name for name in ("keys", "armed", "fired"))
        self.trace, self.deaths = folder / "trace", folder / "deaths"
        for subfolder in (self.keys, self.armed, self.fired):
            subfolder.mkdir(parents=True, exist_ok=True)

    def key_of(self, operation_id: UUID) -> str | None:
        """The Idempotency-Key of the request for an operation, if it had one."""
        with suppress(FileNotFoundError):
            return (self.keys / str(operation_id)).read_text()
        return None

    def fire(self, key: str, point: str) -> bool:
        """Whether this process must die here; true only once for each key."""
        with suppress(FileNotFoundError, FileExistsError):
            if (self.armed / key).read_text() == point:
                # Mode x fails if the file exists: of several processes at the point only one fires.
                with (self.fired / key).open("x") as fired:
                    fired.write(str(os.getpid()))
                return True
        return False

    def note(self, key: str, event: str) -> None:
        """Add a line to the trace."""
        with self.trace.open("a") as trace:
            trace.write(f"{time.time():.3f} {key} {event}\n")

    def die(self) -> None:
        """End this process as a power cut would."""
        with self.deaths.open("a") as deaths:
            deaths.write(f"{time.time():.3f} {os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL)


files: Files


def install() -> None:
    """Put failpoints into this process."""
    global files  # noqa: PLW0603 - its folder is known only when the process has started
    files = Files(Path(os.environ["FAILPOINTS_FOLDER"]))
    _patch(AsyncEngine, "begin", _begin)
    for module in (step_records, quick_records, resource_claims, outbox, resize_decisions):
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            if function.__module__ == module.__name__ and {"tx", "engine"} & set(
                inspect.signature(function).parameters
            ):
                _patch(module, name, _naming_its_transaction(name, function))
    for name in EFFECTS:
        _patch(MockBackend, name, _as_effect(name, getattr(MockBackend, name)))
    # A scripted fault is used up in a transaction of its own, which is not a part of the effect.
    _patch(MockBackend, "_take_fault", _as_effect("", MockBackend._take_fault))
    _patch(calls, "_apply_once", _noting_execution(calls._apply_once))
    _patch(interceptor._Inbound, "execute_activity", _around_activity(interceptor._Inbound.execute_activity))
    _patch(Client, "start_workflow", _around_call("start_workflow", Client.start_workflow))
    _patch(WorkflowHandle, "signal", _around_call("signal", WorkflowHandle.signal))
    _patch(Once, "_keep", _noting_key(Once._keep))


def _patch(owner: type | ModuleType, name: str, replacement: Any) -> None:
    setattr(owner, name, replacement)


async def _pass(*places: Place) -> None:
    """Note that operations come to points; never return if the process must die."""
    fired = False
    for point, operation_id in places:
        key = files.key_of(operation_id)
        if key is not None:
            files.note(key, point)
            fired = files.fire(key, point) or fired
    if fired:
        asyncio.get_running_loop().call_later(HOLD, files.die)
        await asyncio.Event().wait()


@asynccontextmanager
async def _begin(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Replaces AsyncEngine.begin: points just before and just after the commit."""
    transaction = Transaction()
    outer = _transaction.set(transaction)
    place = _activity.get()
    try:
        async with BEGIN(engine) as tx:
            yield tx
            if place and _effect.get():
                transaction.places.append((f"{place[0]} {_effect.get()}", place[1]))
            await _pass(*((f"{name} -", operation_id) for name, operation_id in transaction.places))
    finally:
        _transaction.reset(outer)
    if transaction.executes and (key := files.key_of(transaction.executes.operation_id)):
        files.note(key, f"{EXECUTED} {transaction.executes.step}")
    await _pass(*((f"{name} +", operation_id) for name, operation_id in transaction.places))


def _naming_its_transaction(name: str, function: AsyncFunction) -> AsyncFunction:
    """Wrap a function that is called in a transaction: the transaction's points get its name."""

    async def named(*arguments: Any, **options: Any) -> Any:
        if _is_inside_named.get():  # only the outermost function gives its name
            return await function(*arguments, **options)
        # A statement without a transaction around it has its points before it and after it.
        place = _activity.get() if _transaction.get() is None and not name.startswith(LOOKS) else None
        if place:
            await _pass((f"{place[0]} {name} -", place[1]))
        outer = _is_inside_named.set(True)
        try:
            result = await function(*arguments, **options)
        finally:
            _is_inside_named.reset(outer)
        if place:
            await _pass((f"{place[0]} {name} +", place[1]))
        is_confirm = name == resize_decisions.confirm_by_window.__name__ and result is not None
        if is_confirm and (key := files.key_of(arguments[2])):
            (files.keys / str(result.id)).write_text(key.removesuffix(AUTO_CONFIRM) + AUTO_CONFIRM)
        _add_places(name, [*_operation_ids((*arguments, *options.values())), *_operation_ids(result)])
        return result

    named.__name__ = name
    return named


def _add_places(name: str, operation_ids: list[UUID]) -> None:
    """Record what the open transaction does for these operations."""
    transaction, place = _transaction.get(), _activity.get()
    if transaction is not None:
        point = f"{place[0]} {name}" if place else name
        transaction.places += [(point, id) for id in dict.fromkeys(operation_ids)]


def _operation_ids(value: Any) -> Iterator[UUID]:
    """Every id in arguments or a result that may be an operation's; other ids have no key and do no harm."""
    if isinstance(value, UUID):
        yield value
    elif isinstance(value, OperationInput):
        yield value.operation_id
    elif isinstance(value, FailOperationInput):
        yield value.operation.operation_id
    elif isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        for item in value:
            yield from _operation_ids(item)
    elif hasattr(value, "workflow_id"):  # a row of operations
        yield value.id


def _as_effect(name: str, function: AsyncFunction) -> AsyncFunction:
    """Wrap a call of the cloud: the points of its transactions get this name."""

    async def effect(*arguments: Any, **options: Any) -> Any:
        outer = _effect.set(name)
        try:
            return await function(*arguments, **options)
        finally:
            _effect.reset(outer)

    return effect


def _noting_execution(once: AsyncFunction) -> AsyncFunction:
    """Wrap the mock cloud's check of tokens: note which effects are executed and not only answered again."""

    async def noting(tx: AsyncConnection, token: Token, effect: calls.Effect) -> None:
        async def executed(tx: AsyncConnection) -> None:
            await effect(tx)
            transaction = _transaction.get()
            assert transaction is not None
            transaction.executes = token

        await once(tx, token, executed)

    return noting


def _around_activity(execute: AsyncFunction) -> AsyncFunction:
    async def around(inbound: Any, input: ExecuteActivityInput) -> Any:
        name, operation_id = activity.info().activity_type, interceptor._operation(input).operation_id
        _activity.set((name, operation_id))
        await _pass((f"{name} begins", operation_id))
        try:
            result = await execute(inbound, input)
        except Exception:
            await _pass((f"{name} raises", operation_id))
            raise
        await _pass((f"{name} returns", operation_id))
        return result

    return around


def _around_call(name: str, call: AsyncFunction) -> AsyncFunction:
    """Wrap a call to Temporal by the dispatcher."""

    async def around(*arguments: Any, **options: Any) -> Any:
        ids = list(_operation_ids([argument for argument in arguments if isinstance(argument, OperationInput)]))
        await _pass(*((f"{name} -", operation_id) for operation_id in ids))
        result = await call(*arguments, **options)
        await _pass(*((f"{name} +", operation_id) for operation_id in ids))
        return result

    return around


def _noting_key(keep: AsyncFunction) -> AsyncFunction:
    """Wrap the end of a request's transaction: from then on the operation's key is known."""

    async def noting(once: Once, tx: AsyncConnection, fingerprint: str, answer: Any) -> None:
        await keep(once, tx, fingerprint, answer)
        location = answer.headers.get("operation-location")
        if location and once.key:
            operation_id = UUID(location.rpartition("/")[2])
            (files.keys / str(operation_id)).write_text(once.key)
            _add_places("accept", [operation_id])

    return noting
