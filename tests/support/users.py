"""Users of a running API: they register, log in and send requests."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import bcrypt
import httpx

from api.web import security
from tests.support.stack import Stack
from tests.support.waiting import DEADLINE, poll

CUT_AFTER = 2.0  # seconds after which a retrying user takes an answer for lost
# Several faults that hit one step can make it pause for a minute. A call that hangs is tried again after 150 seconds.
DEADLINE_WITH_FAULTS = 240.0  # seconds
RETRYABLE = {
    "idempotency_key_in_flight",
    "database_unavailable",
    "not_ready",
    "overloaded",
    "shutting_down",
    "too_many_requests",
}
ENDS = ("SUCCEEDED", "FAILED", "CANCELED", "SUPERSEDED")
PASSWORD = "Correct-Horse-1"
# Hashed with the lowest cost that bcrypt allows. The real cost keeps a processor busy for half a second for each user
# who registers and logs in; tests/api tests both.
ADD_ACCOUNT = "INSERT INTO users (id, username, email, password_hash) VALUES ($1, $2, $3, $4)"
CHEAP_HASH = bcrypt.hashpw(security._digest(PASSWORD), bcrypt.gensalt(4)).decode()


class User:
    """A registered user; requests are repeated while the stack is down.

    `wait` is the most seconds that a request for a resource waits until no operation changes it; 0 is for an API that
    cannot wait.
    """

    deadline = DEADLINE
    wait = 4

    def __init__(self, http: httpx.AsyncClient, poll_every: float = 0.05) -> None:
        self.http = http
        self.poll_every = poll_every

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request until the answer is not a 5xx."""
        give_up_at = time.monotonic() + self.deadline
        while True:
            try:
                response = await self.http.request(method, path, **options)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code < 500:
                return response
            assert time.monotonic() < give_up_at, f"{method} {path}: {response.text if response else 'no answer'}"
            await asyncio.sleep(0.1)

    async def read(self, path: str) -> Any:
        """The body of the answer to a GET."""
        return (await self.request("GET", path)).json()

    async def flavors(self) -> list[str]:
        """The ids of all flavors, smallest first."""
        return [flavor["id"] for flavor in (await self.read("/flavors"))["items"]]

    async def create(self, name: str, **headers: str) -> dict[str, Any]:
        """Create a VM of the smallest flavor; returns the answer's body."""
        body = {"name": name, "flavor_id": (await self.flavors())[0]}
        response = await self.request("POST", "/vms", json=body, headers=headers)
        assert response.status_code == 202, response.text
        return dict(response.json())

    async def act(self, vm_id: str, action: str, **body: str) -> dict[str, Any]:
        """Request an action that is accepted; returns its operation."""
        response = await self.request("POST", f"/vms/{vm_id}/actions/{action}", json=body)
        assert response.status_code == 202, response.text
        return dict(await self.read(f"/operations/{response.json()['operation_id']}"))

    async def create_active(self, name: str) -> str:
        """Create a VM and wait until it is ACTIVE; returns its id."""
        vm_id = (await self.create(name))["id"]
        assert (await self.until(vm_id, "ACTIVE", "ERROR"))["status"] == "ACTIVE"
        return str(vm_id)

    async def create_resized(self, name: str) -> dict[str, Any]:
        """Create a VM of the smallest flavor and resize it to the next; returns it when the resize can be confirmed."""
        vm_id = await self.create_active(name)
        await self.act(vm_id, "resize", flavor_id=(await self.flavors())[1])
        return await self.until(vm_id, "VERIFY_RESIZE")

    async def until(self, vm_id: str, *statuses: str, task_state: str | None = None) -> dict[str, Any]:
        """Wait until a VM has the task state, by default none, and one of the statuses, by default any."""
        path = f"/vms/{vm_id}" if task_state else self.waiting(f"/vms/{vm_id}")

        def has_arrived(vm: dict[str, Any]) -> bool:
            return vm["task_state"] == task_state and (not statuses or vm["status"] in statuses)

        vm: dict[str, Any] = await poll(
            lambda: self.read(path), has_arrived, deadline=self.deadline, interval=self.poll_every
        )
        return vm

    async def until_status(self, operation_id: str | None, *statuses: str) -> dict[str, Any]:
        """Poll an operation until it has one of the statuses."""
        path = f"/operations/{operation_id}"
        return dict(await poll(lambda: self.read(path), lambda read: read["status"] in statuses, deadline=120))

    async def end_of(self, path: str, deadline: float | None = None) -> dict[str, Any]:
        """The operation when it has ended."""
        read, path = self.read, self.waiting(path)
        operation: dict[str, Any] = await poll(
            lambda: read(path), lambda operation: operation["status"] in ENDS, deadline=deadline or self.deadline
        )
        return operation

    def waiting(self, path: str) -> str:
        """The path of a request that waits until no operation changes the resource."""
        return f"{path}?wait={self.wait}" if self.wait else path

    async def until_nothing_open(self) -> None:
        """Wait until none of the user's operations is queued or running."""
        path = "/operations?status=QUEUED,RUNNING"
        await poll(lambda: self.read(path), lambda page: page["total"] == 0, deadline=self.deadline)


def operation_path(answer: httpx.Response) -> str:
    """The path of the operation that a request has started."""
    return answer.headers["Operation-Location"].removeprefix("/api/v1")


def operation_id(answer: httpx.Response) -> str | None:
    """The id of the operation that a request has started, if it has."""
    return answer.headers.get("Operation-Location", "").rpartition("/")[2] or None


@asynccontextmanager
async def log_in(stack: Stack, poll_every: float = 0.05) -> AsyncIterator[User]:
    """Log in as a new user."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=5) as http:
        user = User(http, poll_every)
        await _authenticate(user, await add_account(stack))
        yield user


@asynccontextmanager
async def register(stack: Stack) -> AsyncIterator[User]:
    """Register a new user and log in, as a client does."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=5) as http:
        user, name = User(http), f"user-{uuid4().hex[:12]}"
        await _register(user, name, {201})
        yield user


async def add_account(stack: Stack) -> str:
    """Add an account to a stack, which need not hash a password for it; returns its name."""
    name = f"user-{uuid4().hex[:12]}"
    await stack.sql(ADD_ACCOUNT, uuid4(), name, f"{name}@example.com", CHEAP_HASH)
    return name


@dataclass(frozen=True)
class Change:
    """A request for a change, with its final answer."""

    key: str
    method: str
    path: str
    body: dict[str, Any] | None
    answer: httpx.Response

    @property
    def operation_id(self) -> str | None:
        """The operation that the answer names, if any."""
        return operation_id(self.answer)


@dataclass
class Attempts:
    """Counts of a retrying user's requests: `sent` includes repetitions, `lost` had no answer or half of one."""

    sent: int = 0
    lost: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)


class RetryingUser(User):
    """A user who follows the API's advice: every change has an Idempotency-Key and is repeated with it until answered.

    `changes` are all changes that were requested, each with its answer.
    """

    deadline = DEADLINE_WITH_FAULTS
    wait = 1  # less than CUT_AFTER

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        super().__init__(http)
        self.name = name
        self.changes: list[Change] = []
        self.attempts = Attempts()
        self._numbers = itertools.count()

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request until it gets a final answer."""
        give_up_at = time.monotonic() + self.deadline
        while True:
            answer = await self._attempt(method, path, **options)
            if answer is not None:
                return answer
            assert time.monotonic() < give_up_at, f"no answer to {method} {path}"
            await asyncio.sleep(0.1)

    async def change(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Request a change that happens once, however often the request is sent."""
        key = f"change-{next(self._numbers)}"
        answer = await self.request(method, path, json=body, headers={"Idempotency-Key": key})
        self.changes.append(Change(key, method, path, body, answer))
        return answer

    async def _attempt(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """The answer, or None if the request must be sent again."""
        self.attempts.sent += 1
        try:
            answer = await self._send(method, path, **options)
        except (httpx.TransportError, TimeoutError):
            self.attempts.lost += 1
            return None
        self.attempts.statuses[answer.status_code] += 1
        if answer.status_code not in {409, 429} and answer.status_code < 500:
            return answer
        code = answer.json()["code"]
        if answer.status_code >= 500 and code not in RETRYABLE:
            self.attempts.unexpected.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer if answer.status_code == 409 and code not in RETRYABLE else None

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, path, **options)


@asynccontextmanager
async def log_in_retrying(url: str, name: str) -> AsyncIterator[RetryingUser]:
    """Register a new user and log in, while faults may happen."""
    async with httpx.AsyncClient(base_url=url, timeout=CUT_AFTER) as http:
        user = RetryingUser(http, f"{name}-{uuid4().hex[:8]}")
        # 409: an earlier attempt has registered the user, but its answer was lost.
        await _register(user, user.name, {201, 409})
        yield user


async def _register(user: User, name: str, registered: set[int]) -> None:
    account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    assert (await user.request("POST", "/auth/register", json=account)).status_code in registered
    await _authenticate(user, name)


async def _authenticate(user: User, name: str) -> None:
    tokens = (await user.request("POST", "/auth/login", json={"username": name, "password": PASSWORD})).json()
    user.http.headers["Authorization"] = f"Bearer {tokens['access_token']}"
