"""A client as they should be: every change has a key, and is sent again with it until it is answered."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from tests.support.stack import User

TIMEOUT = 2.0  # seconds until it takes an answer for lost
PATIENCE = 120.0  # seconds until something counts as stuck: several faults of one step alone make pauses of a minute
TRY_AGAIN = {"idempotency_key_in_flight", "database_unavailable", "not_ready", "overloaded", "too_many_requests"}


@dataclass(frozen=True)
class Asked:
    """A change that was asked for, with its last answer."""

    key: str
    method: str
    path: str
    body: dict[str, Any] | None
    answer: httpx.Response

    @property
    def operation_id(self) -> str | None:
        """The operation that was promised, if one was."""
        location = self.answer.headers.get("Operation-Location", "")
        return location.rpartition("/")[2] or None


@dataclass
class Attempts:
    """How the requests of a client fared: `sent` counts repetitions, `lost` what had no answer, or half of one."""

    sent: int = 0
    lost: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)


class Client(User):
    """A user's client; `asked` are its changes, of which each was answered."""

    patience = PATIENCE

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        super().__init__(http)
        self.name = name
        self.asked: list[Asked] = []
        self.attempts = Attempts()
        self._numbers = itertools.count()

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request until it is answered for good."""
        give_up_at = time.monotonic() + self.patience
        while True:
            answer = await self._attempt(method, path, **options)
            if answer is not None:
                return answer
            assert time.monotonic() < give_up_at, f"no answer to {method} {path}"
            await asyncio.sleep(0.1)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Ask for a change, once, however often it has to be sent."""
        key = f"change-{next(self._numbers)}"
        answer = await self.request(method, path, json=body, headers={"Idempotency-Key": key})
        self.asked.append(Asked(key, method, path, body, answer))
        return answer

    async def _attempt(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """The answer, or None where the request is to be sent again."""
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
        if answer.status_code >= 500 and code not in TRY_AGAIN:
            self.attempts.unexpected.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer if answer.status_code == 409 and code not in TRY_AGAIN else None

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, path, **options)


@asynccontextmanager
async def log_in(url: str, name: str) -> AsyncIterator[Client]:
    """Register a new user and log in."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as http:
        client = Client(http, f"{name}-{uuid4().hex[:8]}")
        login = {"username": client.name, "password": "Correct-Horse-1"}
        account = login | {"email": f"{client.name}@example.com"}
        assert (await client.request("POST", "/auth/register", json=account)).status_code in {201, 409}
        tokens = (await client.request("POST", "/auth/login", json=login)).json()
        http.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        yield client
