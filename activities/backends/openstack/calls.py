"""Every request that changes something in the cloud goes through here, so that each call takes effect once.

The ledger keeps what was sent. If an answer was lost, the service looks in the cloud for the effect of the request. It
sends the request again only after SETTLE_TIME: by then the cloud has finished with the first one. If the operation is
revoked or the activity is canceled, the thread does not send the request.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from activities.backends.openstack.connection import CONNECT_TIMEOUT, TIMEOUT, Answer, Cloud
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.openstack.ledger import Attempt, History, Ledger, Permission, Run
from activities.backends.openstack.schema import Outcome
from activities.backends.protocol import BackendError, Token

logger = logging.getLogger(__name__)

# A server was seen to appear 8 seconds after its request was given up. This is longer than what the cloud's proxies and
# its calls from service to service usually wait.
SETTLE_TIME: Final = timedelta(seconds=120)
LOOK_AGAIN: Final = 10.0  # seconds between looks for what may have been done
PERMIT_TIMEOUT: Final = 20.0  # seconds for PostgreSQL to give a permission
# A thread that gets its permission later than this has been asleep, and does not send. So nothing is sent after
# FLIGHT_TIME, when a revocation no longer waits for the request.
PERMIT_AGE: Final = 5.0
FLIGHT_TIME: Final = timedelta(seconds=PERMIT_AGE + 3 * CONNECT_TIMEOUT + TIMEOUT)
REVOKE_PAUSE: Final = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Request:
    """A request that changes something. `read_id` reads the id of the new resource from the body of the answer."""

    service: Service
    method: Literal["POST", "PUT", "PATCH", "DELETE"]
    path: str
    body: Mapping[str, Any] | None = None
    read_id: Callable[[Any], str | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Found:
    """The cloud shows that the call was carried out. `cloud_id` is the id of the new resource, if there is one."""

    cloud_id: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The cloud carried out the call, or has begun to.

    `since` is the cloud's own time shortly before. `request_id` names the entry of a server action; it is None if the
    answer was lost.
    """

    cloud_id: str | None
    request_id: str | None
    since: datetime


async def _never(_: Accepted) -> bool:
    return False


class Calls:
    """The calls of this process."""

    def __init__(self, cloud: Cloud, ledger: Ledger) -> None:
        self._cloud = cloud
        self._ledger = ledger
        self._flights: dict[asyncio.Task[Accepted], _Flight] = {}

    async def call(
        self,
        token: Token,
        verb: str,
        send: Callable[[int], Request],
        find: Callable[[datetime | None], Awaitable[Found | None]],
        has_failed: Callable[[Accepted], Awaitable[bool]] = _never,
    ) -> Accepted:
        """Carry out a call once, and return what the cloud answered, now or earlier.

        `send` makes the request of an attempt, by its number. `find` asks the same service for what the call does; it
        gets the cloud's time before the first attempt, or None if nothing was sent yet. A call that was accepted
        earlier is sent again if `has_failed` proves that the cloud did not carry it out. Raises `token_revoked` if the
        operation is revoked, a retryable `settling` while an earlier attempt may still take effect, and what the table
        of errors says.
        """
        history = await self._ledger.read(token)
        last, is_refused = history.last, history.is_revoked and not token.compensates
        if last and last.outcome is Outcome.ACCEPTED:
            accepted = Accepted(last.cloud_id, last.request_id, last.intent_at)
            if is_refused or not await has_failed(accepted):
                return accepted
            if not await self._ledger.reopen(token, last):
                raise _refusal(Permission.TAKEN_OVER)
        if is_refused:
            raise _refusal(Permission.REVOKED)
        found = await find(history.since)
        run = Run(token, _next_number(last))
        request = send(run.attempt)
        now = self._cloud.now(request.service)
        if found:
            return await self._adopt(history, run, verb, now, found)
        if request.method == "POST" and last and last.outcome is Outcome.AMBIGUOUS:
            _check_settled(last.age)
        if not await self._ledger.intend(run, verb, now):
            raise _refusal(Permission.TAKEN_OVER)
        return await self._fly(_Flight(self._cloud, self._ledger, run, request, now))

    async def check_settled(self, operation_id: UUID, verb: str) -> None:
        """Raise a retryable `settling` while what the operation has sent of this verb may take effect unseen.

        Whoever undoes a call and does not find what it made must not take that for the end.
        """
        age = await self._ledger.age_of_ambiguous(operation_id, verb)
        if age is not None:
            _check_settled(age)

    async def revoke(self, operation_id: UUID) -> None:
        """Refuse the operation's calls from now on, except those that compensate; return once none is on its way.

        A worker that died leaves a request of which nobody knows the end. This waits for it FLIGHT_TIME at most.
        """
        await self._ledger.revoke(operation_id)
        while await self._ledger.is_in_flight(operation_id):  # noqa: ASYNC110 - other processes end calls, too
            await asyncio.sleep(REVOKE_PAUSE)

    async def close(self, grace: float = 1.0) -> None:
        """Stop what was not sent yet, and give what was sent some seconds to be recorded."""
        for flight in self._flights.values():
            flight.stop()
        if self._flights:
            await asyncio.wait(self._flights, timeout=grace)

    async def _adopt(self, history: History, run: Run, verb: str, now: datetime, found: Found) -> Accepted:
        """Record what was found as done by the last attempt."""
        number, since = history.last.number if history.last else run.attempt, history.since or now
        await self._ledger.adopt(Run(run.token, number), verb, since, found.cloud_id)
        return Accepted(found.cloud_id, None, since)

    async def _fly(self, flight: "_Flight") -> Accepted:
        """Send a request. If this is canceled, the request goes on if it was sent, and its end is recorded."""
        task = asyncio.create_task(flight.run())
        self._flights[task] = flight
        task.add_done_callback(self._landed)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            flight.stop()
            raise

    def _landed(self, task: asyncio.Task[Accepted]) -> None:
        flight = self._flights.pop(task)
        error = None if task.cancelled() else task.exception()
        if error and flight.is_stopped:
            logger.info("A call that nobody waits for any more ended: %s", error)


class _Flight:
    """One attempt: it waits for a thread, asks for the permission, is sent, and its end is recorded."""

    def __init__(self, cloud: Cloud, ledger: Ledger, run: Run, request: Request, since: datetime) -> None:
        self._cloud = cloud
        self._ledger = ledger
        self._run = run
        self._request = request
        self._since = since
        self._loop = asyncio.get_running_loop()
        # Whether it is stopped and whether it is sent are decided one after the other: after `stop` no byte goes out.
        self._lock = threading.Lock()
        self.is_stopped = False
        self._is_sent = False

    def stop(self) -> None:
        """Do not send the request if it was not sent yet."""
        with self._lock:
            self.is_stopped = True

    async def run(self) -> Accepted:
        """Send the request in a thread, and record how that ended."""
        try:
            answer = await self._cloud.run(self._send)
        except asyncio.CancelledError:  # the loop ends
            self.stop()
            raise
        except CloudError as error:
            await self._ledger.end(self._run, self._outcome(error), request_id=error.request_id, code=error.code)
            raise
        except Exception:
            # It had no permission. If it was sent before, it was only asked to log in again.
            await self._ledger.end(self._run, Outcome.UNSENT)
            raise
        cloud_id, request_id = answer.value, answer.request_id
        await self._ledger.end(self._run, Outcome.ACCEPTED, cloud_id=cloud_id, request_id=request_id)
        return Accepted(cloud_id, request_id, self._since)

    def _send(self) -> Answer[str | None]:
        request = self._request
        return self._cloud.request(
            request.service,
            request.method,
            request.path,
            body=request.body,
            read=request.read_id,
            before_sending=self._check_permission,
        )

    def _check_permission(self) -> None:
        """Return if the bytes may go out now. The thread calls this directly before they do."""
        asked = time.monotonic()
        if self.is_stopped:
            raise _stopped()
        # The pool of PostgreSQL connections belongs to the loop.
        answer = asyncio.run_coroutine_threadsafe(self._ledger.permit(self._run, FLIGHT_TIME), self._loop)
        try:
            permission = answer.result(PERMIT_TIMEOUT)
        finally:
            answer.cancel()
        if permission is not Permission.GRANTED:
            raise _refusal(permission)
        with self._lock:
            if self.is_stopped or time.monotonic() - asked > PERMIT_AGE:
                raise _stopped()
            self._is_sent = True

    def _outcome(self, error: CloudError) -> Outcome:
        if not self._is_sent:
            return Outcome.UNSENT
        if error.ambiguous:
            return Outcome.AMBIGUOUS
        return Outcome.UNSENT if error.status is None else Outcome.REFUSED


def _next_number(last: Attempt | None) -> int:
    """Return the number of the next attempt: only one that may have taken effect keeps its number for itself."""
    if last is None:
        return 1
    return last.number + 1 if last.outcome is Outcome.AMBIGUOUS else last.number


def _check_settled(age: timedelta | None) -> None:
    """Raise a retryable error while an attempt of this age may still take effect."""
    remaining = (SETTLE_TIME - (age or timedelta())).total_seconds()
    if remaining > 0:
        raise CloudError(
            "settling",
            "The cloud's answer was lost, so it may have done what was asked. "
            f"If that does not show within {remaining:.0f} seconds, it is asked again.",
            retryable=True,
            retry_after=min(remaining, LOOK_AGAIN),
        )


def _refusal(permission: Permission) -> BackendError:
    if permission is Permission.REVOKED:
        message = "The call was not sent, because its operation was revoked."
        return BackendError("token_revoked", message, retryable=False)
    return BackendError("taken_over", "Another worker makes the same call.", retryable=True)


def _stopped() -> BackendError:
    return BackendError("not_sent", "The call was stopped before it was sent.", retryable=True)
