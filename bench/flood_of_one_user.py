"""What a flood of one user does to another, with and without rate limits: `python -m bench.flood_of_one_user`.

Starts a PostgreSQL server in a temporary folder and API processes on it. Needs `wrk`. It prints three tables:
what counting a request and telling what is left costs; how long the requests of a user take, one after the other, while
another floods the service; and how many requests two processes let through that one user floods at the same time.
"""

import asyncio
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import asyncpg
import httpx

from api.background.rate_uses import WINDOW, RateUses
from api.web.rate_limits import Counted, RateLimits
from bench.load import call
from bench.processes import SETTINGS, api, new_database, postgres
from bench.usage import table
from tests.conftest import make_settings

CONNECTIONS = 64  # more than one user may have open, so some requests get no slot, either
FEWER = 32  # all get a slot
SECONDS = 15.0  # of a measurement
LONGEST_FLOOD = 60  # seconds
SMALL = 1_000  # requests in the window, for two processes
KINDS = ("user", "token", "address")
OFF = {f"RATE_LIMIT_{kind.upper()}_{what}": "0" for kind in KINDS for what in ("READS", "WRITES")}
PASSWORD = "Correct-Horse-1"  # noqa: S105 - of users in a temporary folder
USED_UP = "INSERT INTO rate_uses (key, since, busy_until) VALUES ($1, now(), now() + $2)"
VOLUME = '{"name": "data", "size_gb": 1}'


def token_of(address: str, name: str) -> str:
    """The token of a new user."""
    login = {"username": name, "password": PASSWORD}
    call(f"{address}/auth/register", login | {"email": f"{name}@example.com"})
    token: str = call(f"{address}/auth/login", login)["access_token"]
    return token


@asynccontextmanager
async def flood(url: str, token: str, body: str = "", connections: int = CONNECTIONS) -> AsyncIterator[Counter[str]]:
    """Send requests as fast as possible; the numbers of all answers and of the refusals are there at the end."""
    answers = Counter[str]()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        headers = f'wrk.headers["Authorization"] = "Bearer {token}"\nwrk.headers["Content-Type"] = "application/json"\n'
        lua.write(headers + (f'wrk.method = "POST"\nwrk.body = [[{body}]]\n' if body else ""))
        lua.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{LONGEST_FLOOD}s", "-s", lua.name, url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        await asyncio.sleep(1)
        try:
            yield answers
        finally:
            process.send_signal(2)  # it then prints what it has counted
            out = (await process.communicate())[0].decode()
    for name, pattern in {"all": r"(\d+) requests in", "refused": r"Non-2xx or 3xx responses: (\d+)"}.items():
        found = re.search(pattern, out)
        answers[name] = int(found[1]) if found else 0


async def work(http: httpx.AsyncClient) -> list[float]:
    """The milliseconds of the requests of a user who reads and creates, one after the other."""
    taken = []
    ends_at = time.monotonic() + SECONDS
    while time.monotonic() < ends_at:
        for method, path, body in [("GET", "/vms", None), ("POST", "/volumes", VOLUME)]:
            sent_at = time.perf_counter()
            answer = await http.request(method, path, content=body, headers={"Content-Type": "application/json"})
            taken.append(1000 * (time.perf_counter() - sent_at))
            answer.raise_for_status()
            await asyncio.sleep(0.02)
    return taken


def row(name: str, taken: list[float], flooded: str = "") -> tuple[object, ...]:
    """A row of the table of latencies."""
    return name, len(taken), statistics.median(taken), sorted(taken)[int(0.99 * len(taken))], max(taken), flooded


async def latencies(url: str) -> list[tuple[object, ...]]:
    """The rows of the working user's latencies: alone, and beside floods without and with limits."""
    rows = []
    for limits, settings in (("without limits", OFF), ("limits used up", dict[str, str]())):
        with api(url, SETTINGS | settings) as service:
            address, name = service.url, limits.replace(" ", "-")
            async with httpx.AsyncClient(base_url=address, timeout=60) as http:
                http.headers["Authorization"] = f"Bearer {token_of(address, f'ada-{name}')}"
                if settings:
                    rows.append(row("none", await work(http)))
                for kind, path, body in (("reads", "/vms", ""), ("writes", "/volumes", VOLUME)):
                    token = token_of(address, f"eve-{kind}-{name}")
                    if not settings:
                        user_id = call(f"{address}/auth/me", token=token)["id"]
                        await use_up(url, f"user-{kind} {user_id}")
                    async with flood(address + path, token, body) as answers:
                        taken = await work(http)
                    told = f"{answers['all'] - answers['refused']:,} passed, {answers['refused']:,} refused"
                    rows.append(row(f"{kind}, {limits}", taken, told))
    return rows


async def use_up(url: str, key: str) -> None:
    """Let a limit be used up, as it is after the flood has gone on for a while."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute(USED_UP, key, timedelta(seconds=WINDOW))
    await connection.close()


def _flood(address: str, token: str) -> AbstractAsyncContextManager[Counter[str]]:
    return flood(f"{address}/flavors", token, connections=FEWER)


async def two_processes(url: str) -> list[tuple[object, ...]]:
    """What one user gets through who floods two processes, and what one may get through."""
    limits = SETTINGS | {"RATE_LIMIT_USER_READS": str(SMALL)}
    with api(url, limits) as one, api(url, limits) as two:
        await asyncio.sleep(12)  # two signs of life, so that each has counted the other
        token = token_of(one.url, "mallory")
        begun = time.monotonic()
        async with _flood(one.url, token) as first, _flood(two.url, token) as second:
            await asyncio.sleep(2 * SECONDS)
        seconds = time.monotonic() - begun
    through = [each["all"] - each["refused"] for each in (first, second)]
    allowed = SMALL + seconds * SMALL / WINDOW
    return [(f"{seconds:.0f} s", *through, sum(through), allowed, 100 * (sum(through) / allowed - 1))]


def cost() -> list[tuple[object, ...]]:
    """Microseconds that counting a request and telling what is left take, by the number of callers it counts for."""
    rows: list[tuple[object, ...]] = []
    settings = make_settings("postgresql://unused/unused", rate_limit_user_reads=10**9, rate_limit_token_reads=10**9)
    for name, kinds in (("a user", ("user",)), ("a token and its user", ("token", "user"))):
        limits = RateLimits(settings, RateUses())
        limits.uses.processes = 2
        callers = [[(kind, f"{number:032x}") for kind in kinds] for number in range(1_000)]
        begun = time.process_time()
        for number in range(200_000):
            counted = Counted(limits, "GET")
            counted.count(*callers[number % 1_000])  # type: ignore[arg-type] # they are kinds
            counted.headers(60, 60)
        rows.append((name, 1e6 * (time.process_time() - begun) / 200_000))
    return rows


def main() -> None:
    """Measure and print the tables."""
    table("a request counts for", "microseconds", rows=cost())
    with postgres("-F") as server:
        url = new_database(server.url, "bench")
        head = ("the flood", "requests of the other user", "median ms", "99 % ms", "worst ms", "answers to the flood")
        table(*head, rows=asyncio.run(latencies(url)))
        head = ("flood for", "through one", "through two", "both", "allowed", "% beyond")
        table(*head, rows=asyncio.run(two_processes(url)))


if __name__ == "__main__":
    main()
