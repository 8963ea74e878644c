"""A stack under overload: `python -m bench.overload [COUNT [PART...]]`, by default 10,000 operations and all parts.

Starts a stack in a temporary folder. `crowd`: twenty users request COUNT/5 operations together, while one more user
requests a few, one after the other. Then a single user takes the place of the twenty. `flood`: one user floods the API
with HTTP requests while another works. `outage`: COUNT operations are accepted while there is no worker. Needs `wrk`.
On errors the exit code is 1 and the last lines list them.
"""

import asyncio
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any

import httpx

from bench.usage import PARTS, cpu, difference, memory, run_on_a_stack, table, temporal_timeouts
from bench.waiting import IMAGE, OLD, SEED
from tests.support.stack import Stack
from tests.support.users import User, log_in

SETTINGS = {f"MOCK_{verb}_DELAY": "0.2" for verb in ("BUILD", "STOP", "SNAPSHOT")} | {
    "ACCESS_TOKEN_EXPIRE_MINUTES": "1440",
    # What is measured is what the queues do.
    "RATE_LIMIT_USER_READS": "0",
    "RATE_LIMIT_USER_WRITES": "0",
}
USERS = 20
CONCURRENT = 32  # requests
LATE_OPERATIONS = 5
FLOOD_CONNECTIONS = 300
FLOOD_SECONDS = 10
STALLED, REPORT_INTERVAL, RETURN_DELAY = 120.0, 30.0, 10.0  # seconds
OPEN = "SELECT count(*) FROM operations WHERE finished_at IS NULL"
COUNTS = {
    "delivered and not started, at most": "SELECT count(*) FROM operations WHERE status = 'QUEUED' AND deliveries > 0",
    "started and not ended, at most": "SELECT count(*) FROM operations WHERE status = 'RUNNING'",
}
NOT_SUCCEEDED = "SELECT count(*) FROM operations WHERE status NOT IN ('SUCCEEDED', 'QUEUED', 'RUNNING')"
DURATIONS = """
SELECT extract(epoch FROM finished_at - created_at)::float FROM operations WHERE request_id LIKE $1 ORDER BY 1
"""
TIME_TO_LAST_END = "SELECT extract(epoch FROM max(finished_at) - $2)::float FROM operations WHERE request_id LIKE $1"
STATUS = re.compile(r" (?:GET|POST) \S+ (\d{3}) [\d.]+ms request_id=(?!bench)")
Request = tuple[User, str, dict[str, Any]]


@asynccontextmanager
async def maxima(stack: Stack) -> AsyncIterator[dict[str, float]]:
    """Collect the maximum memory of each part, and the maximum number of waiting operations, while this is open."""
    most: dict[str, float] = {}

    async def sample() -> None:
        while True:
            now = {f"{part}, MB at most": memory(stack, part) for part in PARTS}
            now |= {name: (await stack.sql(query))[0][0] for name, query in COUNTS.items()}
            most.update({name: max(value, most.get(name, 0)) for name, value in now.items()})
            await asyncio.sleep(1)

    sampling = asyncio.create_task(sample())
    yield most
    sampling.cancel()


async def until_all_ended(stack: Stack) -> None:
    """Wait until every operation has ended; TimeoutError if none ends for a while."""
    started_at = changed_at = reported_at = time.monotonic()
    before = -1
    while open := (await stack.sql(OPEN))[0][0]:
        now = time.monotonic()
        if open != before:
            before, changed_at = open, now
        if now - reported_at > REPORT_INTERVAL:
            reported_at = now
            print(f"{now - started_at:.0f} s: {open} open", file=sys.stderr, flush=True)
        if now - changed_at > STALLED:
            raise TimeoutError(f"{open} operations are open and none has ended for {STALLED:.0f} s")
        await asyncio.sleep(1)


@asynccontextmanager
async def users(stack: Stack, number: int) -> AsyncIterator[list[User]]:
    """Register and log in this number of users."""
    async with AsyncExitStack() as clients:
        logged_in = [await clients.enter_async_context(log_in(stack)) for _ in range(number)]
        for user in logged_in:
            user.http.timeout = httpx.Timeout(60)
        yield logged_in


async def make_requests(stack: Stack, crowd: Sequence[User], count: int) -> list[Request]:
    """Requests of all users in random order: eight creates of a VM to one of a volume and one stop."""
    each = count // len(crowd)
    await stack.sql(SEED, OLD, IMAGE, min(each // 10, 100))
    create = {"name": "vm", "flavor_id": (await crowd[0].flavors())[0]}
    requests: list[Request] = []
    for user in crowd:
        vms = (await user.read("/vms?page_size=100&status=ACTIVE"))["items"][: each // 10]
        own: list[Request] = [(user, f"/vms/{vm['id']}/actions/stop", {}) for vm in vms]
        own += [(user, "/volumes", {"name": "data", "size_gb": 1})] * (each // 10)
        requests += own + [(user, "/vms", create)] * (each - len(own))
    random.shuffle(requests)
    return requests


async def send(requests: Sequence[Request], name: str) -> float:
    """Send all requests, many at a time; returns the seconds until all are accepted."""
    remaining = iter(enumerate(requests))

    async def send_some() -> None:
        for number, (user, path, body) in remaining:
            answer = await user.request("POST", path, json=body, headers={"X-Request-Id": f"{name}-{number}"})
            if answer.status_code != HTTPStatus.ACCEPTED:
                raise RuntimeError(answer.text)

    started_at = time.monotonic()
    await asyncio.gather(*(send_some() for _ in range(CONCURRENT)))
    return time.monotonic() - started_at


async def one_by_one(stack: Stack, user: User, name: str) -> tuple[object, ...]:
    """Create a few VMs of one user, each after the end of the one before; returns the row of their durations."""
    for number in range(LATE_OPERATIONS):
        vm = await user.create("late", **{"X-Request-Id": f"{name}-{number}"})
        await user.until(vm["id"], "ACTIVE")
    return await durations(stack, name)


async def durations(stack: Stack, name: str) -> tuple[object, ...]:
    """A row of seconds from acceptance to end, by the database's clock: name, count, median, maximum."""
    seconds = [row[0] for row in await stack.sql(DURATIONS, f"{name}-%")]
    return name, len(seconds), statistics.median(seconds), max(seconds)


async def crowd(stack: Stack, count: int) -> None:
    """Many operations of many users at once, and a few of a user who comes later."""
    async with users(stack, USERS) as many, users(stack, 1) as [late], maxima(stack) as most:
        late.poll_every = 0.2
        rows = [await one_by_one(stack, late, "late.alone")]
        requests = await make_requests(stack, many, count // 5)
        before = temporal_timeouts(stack)
        seconds = await send(requests, "crowd")
        rows.append(await one_by_one(stack, late, "late.in.crowd"))
        await until_all_ended(stack)
        rows.append(await durations(stack, "crowd"))
        create = next((path, body) for _, path, body in requests if path == "/vms")
        await send([(many[0], *create)] * (len(requests) // 4), "one")
        rows.append(await one_by_one(stack, late, "late.beside.one"))
        await until_all_ended(stack)
        rows.append(await durations(stack, "one"))
    table("operations", "count", "median s", "slowest s", rows=rows)
    timeouts = difference(before, temporal_timeouts(stack))
    figures = {"accepted per second": len(requests) / seconds, **most, **timeouts}
    table(f"{len(requests)} at once", "", rows=figures.items())


async def work(user: User) -> tuple[list[float], Counter[int]]:
    """Read and create, one request after the other; returns the sorted durations and the status codes."""
    seconds, answers = [], Counter[int]()
    ends_at = time.monotonic() + FLOOD_SECONDS
    while time.monotonic() < ends_at:
        for method, path, body in [("GET", "/vms", None), ("POST", "/volumes", {"name": "data", "size_gb": 1})]:
            sent_at = time.monotonic()
            answer = await user.http.request(method, path, json=body, headers={"X-Request-Id": "bench"})
            seconds.append(time.monotonic() - sent_at)
            answers[answer.status_code] += 1
            await asyncio.sleep(0.02)
    return sorted(seconds), answers


@contextmanager
def count_answers(stack: Stack) -> Iterator[Counter[str]]:
    """Count the answers in the API's log, without those to the measured user."""
    log = stack.data_dir / "logs" / "api.log"
    before, answers = log.stat().st_size, Counter[str]()
    yield answers
    text = log.read_bytes()
    if len(text) < before:  # the supervisor has moved the beginning of the log into another file
        text = log.with_name("api.log.1").read_bytes() + text
    answers.update(STATUS.findall(text[before:].decode()))


@asynccontextmanager
async def wrk(url: str, connections: int, token: str, body: str = "") -> AsyncIterator[None]:
    """Send requests as fast as possible and ignore the answers."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        headers = f'wrk.headers["Authorization"] = "{token}"\nwrk.headers["Content-Type"] = "application/json"\n'
        lua.write(headers + (f'wrk.method = "POST"\nwrk.body = [[{body}]]\n' if body else ""))
        lua.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{FLOOD_SECONDS + 2}s", "-s", lua.name, url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        await asyncio.sleep(1)
        yield
        await process.wait()


async def flood(stack: Stack, _count: int) -> None:
    """One user sends far too many requests while another works."""
    async with users(stack, 2) as [flooding, user]:
        create = '{"name": "data", "size_gb": 1}'
        login = '{"username": "nobody", "password": "Wrong-Horse-1"}'
        token = flooding.http.headers["Authorization"]
        rows = [await row(stack, "no flood", user)]
        for name, path, connections, authorization, body in [
            (f"{FLOOD_CONNECTIONS} connections that read", "/vms", FLOOD_CONNECTIONS, token, ""),
            (f"{FLOOD_CONNECTIONS} connections that create", "/volumes", FLOOD_CONNECTIONS, token, create),
            ("64 connections that log in", "/auth/login", 64, "", login),
        ]:
            async with wrk(stack.url + path, connections, authorization, body):
                rows.append(await row(stack, name, user))
    table("the other user", "requests", "median ms", "99th percentile ms", "answers", "answers to the flood", rows=rows)


async def row(stack: Stack, name: str, user: User) -> tuple[object, ...]:
    """A row with the durations of the working user's requests, and the answers to both users."""
    with count_answers(stack) as others:
        seconds, own = await work(user)
    percentile = seconds[int(0.99 * len(seconds))]
    counts = [", ".join(f"{status}: {number}" for status, number in sorted(each.items())) for each in (own, others)]
    return name, len(seconds), 1000 * statistics.median(seconds), 1000 * percentile, *counts


async def outage(stack: Stack, count: int) -> None:
    """Accept many operations while there is no worker; they run when it is back."""
    async with users(stack, USERS) as many, users(stack, 1) as [late], maxima(stack) as most:
        requests = await make_requests(stack, many, count)
        before, cpu_before = temporal_timeouts(stack), {part: cpu(stack, part) for part in PARTS}
        with stack.without_restarts():
            stack.kill("worker")
            seconds = await send(requests, "outage")
            [[returned_at]] = await stack.sql("SELECT now()")
        await asyncio.sleep(RETURN_DELAY)
        rows = [await one_by_one(stack, late, "late.after")]
        await until_all_ended(stack)
        rows.append(await durations(stack, "outage"))
        [[duration]] = await stack.sql(TIME_TO_LAST_END, "outage-%", returned_at)
    table("operations", "count", "median s", "slowest s", rows=rows)
    figures = {"accepted per second": len(requests) / seconds, "s from the worker's return to the last end": duration}
    figures |= {"ended per second": len(requests) / duration} | most
    figures |= difference(before, temporal_timeouts(stack))
    cpu_before["worker"] = 0.0  # it is a new process
    figures |= {f"{part}, CPU ms each": 1000 * (cpu(stack, part) - cpu_before[part]) / len(requests) for part in PARTS}
    table(f"{len(requests)} without a worker", "", rows=figures.items())


async def run(stack: Stack, count: int, parts: Sequence[str]) -> list[str]:
    """Run the parts; returns errors."""
    errors = []
    for name, part in {"crowd": crowd, "flood": flood, "outage": outage}.items():
        if name in parts or not parts:
            try:
                await part(stack, count)
            except TimeoutError as error:
                errors.append(f"{name}: {error}")
            await until_all_ended(stack)
    [[failures]] = await stack.sql(NOT_SUCCEEDED)
    return [*errors, f"{failures} operations did not succeed"] if failures else errors


def main() -> None:
    """Start a stack, measure it and stop it."""
    count, *parts = sys.argv[1:] or ["10000"]
    run_on_a_stack(SETTINGS, lambda stack: run(stack, int(count), parts))


if __name__ == "__main__":
    main()
