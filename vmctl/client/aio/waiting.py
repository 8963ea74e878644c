"""Waits for operations to end."""

from asyncio import sleep
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from time import monotonic
from typing import Generic, TypeVar
from uuid import UUID

from vmctl.client import retries
from vmctl.client.aio.transport import Transport
from vmctl.client.errors import (
    NotFoundError,
    OperationError,
    ProblemError,
    UnreachableError,
    WaitTimeoutError,
    answer_of,
    is_final,
    unreadable,
)
from vmctl.client.models import Operation, OperationStatus
from vmctl.client.sending import Filter

T = TypeVar("T")
Watcher = Callable[[Operation], None]
_LONGEST_WAIT = 60  # seconds that the service holds one answer back
_MOST_IDS = 100  # of one request
_GRACE = 5.0  # seconds after the timeout for an answer that is on its way


async def until_ended(
    transport: Transport,
    ids: Sequence[UUID],
    timeout: float | None = None,
    watch: Watcher | None = None,
    every: int = 1,
) -> list[Operation]:
    """Wait until all operations have ended, and return them in the order of the ids.

    `watch` is called with every operation, each `every` seconds and at the end.
    """
    give_up_at = inf if timeout is None else monotonic() + timeout
    ended: dict[UUID, Operation] = {}
    late: set[UUID] = set()  # those that were read after the time was over
    delays = retries.delays()
    while remaining := [id for id in ids if id not in ended]:
        asked = [id for id in remaining if id not in late][:_MOST_IDS]
        if not asked:
            raise WaitTimeoutError(remaining)
        left = min(_LONGEST_WAIT, give_up_at - monotonic())
        seconds = int(min(every if watch else _LONGEST_WAIT, left + 1)) if left > 0 else 0
        asked_at = monotonic()
        try:
            found = await _look(transport, asked, seconds, max(0, give_up_at - asked_at) + _GRACE)
        except (UnreachableError, ProblemError) as error:
            if monotonic() < give_up_at or is_final(error):
                raise
            over = WaitTimeoutError(remaining)
            over.add_note(f"It is not known how far they are: {error}")
            raise over from error
        if watch:
            for operation in found:
                watch(operation)
        ended |= {operation.id: operation for operation in found if operation.finished_at}
        if left <= 0:
            late.update(asked)
        elif monotonic() - asked_at >= seconds / 2:
            delays = retries.delays()
        elif not all(operation.finished_at for operation in found):
            # The service does not hold its answers back, or it is about to stop. Without a pause this would ask for
            # nothing else than that.
            await sleep(min(next(delays), left))
    return [ended[id] for id in ids]


async def _look(transport: Transport, ids: Sequence[UUID], seconds: int, within: float) -> list[Operation]:
    """Read the operations, as soon as all have ended or the seconds are over. It may take `within` seconds."""
    if len(ids) == 1:
        answer = await transport.send("GET", f"/operations/{ids[0]}", filters={"wait": seconds}, within=within)
        found = [answer_of(answer, Operation)]
        if found[0].id != ids[0]:
            raise unreadable(answer.request.url, "it is about another operation")
        return found
    wanted: dict[str, Filter] = {"id": ",".join(map(str, ids)), "wait": seconds}
    listed = [each async for each in transport.items("/operations", Operation, wanted, within=within)]
    if missing := set(ids) - {operation.id for operation in listed}:
        raise NotFoundError(f"There is no operation {', '.join(map(str, missing))}.")
    return [operation for operation in listed if operation.id in ids]


def check(operation: Operation) -> Operation:
    """Return an operation that has succeeded; raise OperationError for any other."""
    if operation.status is not OperationStatus.SUCCEEDED:
        raise OperationError(operation)
    return operation


class Accepted(Generic[T]):
    """A change that the service has accepted and carries out in the background.

    `resource` is the resource as it was answered at once; None for a delete. `operation_id` is None only if there was
    nothing to do.
    """

    def __init__(
        self, transport: Transport, resource: T, operation_id: UUID | None, read: Callable[[], Awaitable[T]]
    ) -> None:
        self.resource = resource
        self.operation_id = operation_id
        self._transport = transport
        self.read = read  # reads the resource anew

    async def wait(self, timeout: float | None = None, watch: Watcher | None = None) -> T:
        """Wait until the change is made, and return the resource after it.

        Raises OperationError if the operation has failed, was canceled or superseded, and WaitTimeoutError if it takes
        longer than `timeout` seconds.
        """
        if self.operation_id is not None:
            [operation] = await until_ended(self._transport, [self.operation_id], timeout, watch)
            check(operation)
        return await self.read()
