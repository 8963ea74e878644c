"""Honest logins while others attack: `python -m bench.logins API_URL [SECONDS [BOTS]]`.

Needs a running API on this machine and Linux, where every address of 127.0.0.0/8 may be a client's. Each attack comes
from addresses of its own. Meanwhile users log in, each with the right password: one user from the address of the last
login, and others from addresses that the API has never seen. A refused login is tried again after Retry-After.
"""

import asyncio
import itertools
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from uuid import uuid4

import httpx

PASSWORD = "Correct-Horse-1"  # noqa: S105 - of accounts that this script makes
CONNECTIONS = 8  # of each of the three addresses
PATIENCE = 10.0  # seconds after which a user gives up
PAUSE = 2.5  # seconds between two logins of users; with more than 8 in five minutes an owner loses the precedence
RUN = uuid4().hex[:8]
numbers = itertools.count()
networks = itertools.count(1)
own_accounts: list[str] = []  # of the attackers


@dataclass
class Users:
    """What the users of one attack have met: seconds until each login, and the statuses of all answers."""

    seconds: list[float] = field(default_factory=list)
    lost: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    def row(self) -> str:
        """The cells of a table."""
        tried = len(self.seconds) + self.lost
        refused = self.statuses.total() - self.statuses[HTTPStatus.OK]
        median, slowest = (statistics.median(self.seconds), max(self.seconds)) if self.seconds else (0.0, 0.0)
        return f"{len(self.seconds)} of {tried} | {refused} | {median:.1f} s | {slowest:.1f} s"


def client(api: str, address: str) -> httpx.AsyncClient:
    """A client with one connection, which comes from this address."""
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=httpx.Limits(max_connections=1))
    return httpx.AsyncClient(base_url=api, transport=transport, timeout=60)


async def log_in(http: httpx.AsyncClient, users: Users, name: str) -> None:
    """Log in with the right password, again and again until it works or PATIENCE is over."""
    started_at = time.monotonic()
    while (passed := time.monotonic() - started_at) < PATIENCE:
        answer = await http.post("/auth/login", json={"username": name, "password": PASSWORD})
        users.statuses[answer.status_code] += 1
        if answer.status_code == HTTPStatus.OK:
            users.seconds.append(time.monotonic() - started_at)
            return
        await asyncio.sleep(min(float(answer.headers.get("Retry-After", 1)), PATIENCE - passed))
    users.lost += 1


async def register(api: str) -> str:
    """Register an account from an address of its own; returns its name."""
    name = f"user-{RUN}-{next(numbers)}"
    account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    async with client(api, f"127.100.{next(numbers) % 250}.{next(numbers) % 250}") as http:
        (await http.post("/auth/register", json=account)).raise_for_status()
    return name


async def wrong_password(http: httpx.AsyncClient, victim: str) -> None:
    """Try a wrong password for the victim."""
    await http.post("/auth/login", json={"username": victim, "password": "wrong"})


async def any_name(http: httpx.AsyncClient, _: str) -> None:
    """Try a wrong password for a name drawn from a million."""
    await http.post("/auth/login", json={"username": f"user-{random.randrange(10**6)}", "password": "wrong"})


async def made_up_address(http: httpx.AsyncClient, victim: str) -> None:
    """Try a wrong password with a made-up X-Forwarded-For."""
    address = ".".join(str(random.randrange(1, 255)) for _ in range(4))
    body = {"username": victim, "password": "wrong"}
    await http.post("/auth/login", json=body, headers={"X-Forwarded-For": address})


async def registration(http: httpx.AsyncClient, _: str) -> None:
    """Register one more account."""
    name = f"flood-{RUN}-{next(numbers)}"
    account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    await http.post("/auth/register", json=account)


async def own_account(http: httpx.AsyncClient, _: str) -> None:
    """Log in to one of the attacker's own accounts, with the right password."""
    body = {"username": random.choice(own_accounts), "password": PASSWORD}
    await http.post("/auth/login", json=body)


@dataclass(frozen=True)
class Attack:
    """Requests that are sent without a pause from so many addresses, on so many connections from each."""

    name: str
    request: Callable[[httpx.AsyncClient, str], Awaitable[None]]
    addresses: int
    connections: int = 1
    first_address: str = ""

    async def run(self, http: httpx.AsyncClient, victim: str) -> None:
        """Send requests on one connection."""
        while True:
            try:
                await self.request(http, victim)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)


async def users_of(api: str, end: float, names: list[str], address: Callable[[int], str]) -> Users:
    """Let the users log in one after the other until the end, the n-th time from `address(n)`."""
    users, n = Users(), 0
    while time.monotonic() < end:
        async with client(api, address(n)) as http:
            await log_in(http, users, names[n % len(names)])
        await asyncio.sleep(PAUSE)
        n += 1
    return users


async def measure(api: str, seconds: float, attack: Attack, names: list[str]) -> str:
    """The row of an attack: the user with a known address, and users with new addresses."""
    owner, *others = names
    network = next(networks)
    home = f"127.101.0.{network}"
    async with AsyncExitStack() as stack, client(api, home) as http:
        await log_in(http, Users(), owner)
        addresses = [attack.first_address or f"127.{network}.{n // 250}.{n % 250 + 1}" for n in range(attack.addresses)]
        attackers = [
            await stack.enter_async_context(client(api, address))
            for address in addresses
            for _ in range(attack.connections)
        ]
        attacks = [asyncio.create_task(attack.run(http, owner)) for http in attackers]
        await asyncio.sleep(1)
        end = time.monotonic() + seconds
        known, new = await asyncio.gather(
            users_of(api, end, [owner], lambda _: home),
            users_of(api, end, others, lambda n: f"127.102.{network}.{n % 250 + 1}"),
        )
        for task in attacks:
            task.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)
    return f"{known.row()} | {new.row()}"


async def main(api: str, seconds: float, bots: int) -> None:
    """Print a row for each attack."""
    attacks = [
        Attack("none", wrong_password, 0),
        Attack(f"wrong passwords, 3 addresses with {CONNECTIONS} connections each", wrong_password, 3, CONNECTIONS),
        Attack("wrong passwords, 24 connections, made-up `X-Forwarded-For`", made_up_address, 1, 24, "127.0.0.1"),
        Attack(f"registrations, 3 addresses with {CONNECTIONS} connections each", registration, 3, CONNECTIONS),
        Attack("right passwords of 8 accounts of their own, 14 addresses with 2 connections each", own_account, 14, 2),
        Attack(f"wrong passwords for one account, {bots} addresses", wrong_password, bots),
        Attack(f"wrong passwords for any name, {bots} addresses", any_name, bots),
    ]
    own_accounts.extend([await register(api) for _ in range(8)])
    columns = "logged in | refused | median | slowest"
    names = [[await register(api) for _ in range(4)] for _ in attacks]
    print(f"| attack | known address: {columns} | new address: {columns} |", flush=True)
    for attack, users in zip(attacks, names, strict=True):
        print(f"| {attack.name} | {await measure(api, seconds, attack, users)} |", flush=True)
        await asyncio.sleep(PATIENCE)  # until the requests of this attack have been answered


if __name__ == "__main__":
    api, seconds, bots = (*sys.argv[1:], *["20", "200"][len(sys.argv) - 2 :])
    asyncio.run(main(api, float(seconds), int(bots)))
