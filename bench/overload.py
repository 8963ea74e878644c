"""What comes of more than can be done at once: `python -m bench.overload [HOW_MANY [PART...]]`, by default 10,000.

Starts a stack of its own in a temporary folder. `crowd`: a fifth as many operations are asked for at once by twenty
users, and some, one by one, by somebody who comes late; then a crowd of one user's. `flood`: one caller floods the
API by HTTP while another works. `away`: the worker is killed, so many operations are accepted, and the worker comes
back. Needs `wrk`. Exit code 1 says that something went wrong; the last lines say what.
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

from bench.usage import PARTS, cpu, difference, memory, on_a_stack, table, temporal_timeouts
from bench.waiting import IMAGE, OLD, SEED
from tests.support.stack import Stack, User, log_in

SETTINGS = {f"MOCK_{verb}_DELAY": "0.2" for verb in ("BUILD", "STOP", "SNAPSHOT")} | {
    "ACCESS_TOKEN_EXPIRE_MINUTES": "1440"
}
USERS, CALLERS, LATE, FLOOD, SECONDS = 20, 32, 5, 300, 10  # callers at once, late operations, connections
STALLED, TELL_EVERY, IN_THE_MIDDLE = 120.0, 30.0, 10.0  # seconds
OPEN = "SELECT count(*) FROM operations WHERE finished_at IS NULL"
COUNTS = {
    "delivered and not begun, at most": "SELECT count(*) FROM operations WHERE status = 'QUEUED' AND deliveries > 0",
    "begun and not ended, at most": "SELECT count(*) FROM operations WHERE status = 'RUNNING'",
}
UNHAPPY = "SELECT count(*) FROM operations WHERE status NOT IN ('SUCCEEDED', 'QUEUED', 'RUNNING')"
TOOK = """
SELECT extract(epoch FROM finished_at - created_at)::float FROM operations WHERE request_id LIKE $1 ORDER BY 1
"""
SPAN = "SELECT extract(epoch FROM max(finished_at) - $2)::float FROM operations WHERE request_id LIKE $1"
STATUS = re.compile(r" (?:GET|POST) \S+ (\d{3}) [\d.]+ms request_id=(?!bench)")
Request = tuple[User, str, dict[str, Any]]


@asynccontextmanager
async def watching(stack: Stack) -> AsyncIterator[dict[str, float]]:
    """The most that each part has needed meanwhile, and that Temporal has had to begin."""
    most: dict[str, float] = {}

    async def look() -> None:
        while True:
            now = {f"{part}, MB at most": memory(stack, part) for part in PARTS}
            now |= {name: (await stack.sql(query))[0][0] for name, query in COUNTS.items()}
            most.update({name: max(value, most.get(name, 0)) for name, value in now.items()})
            await asyncio.sleep(1)

    looking = asyncio.create_task(look())
    yield most
    looking.cancel()


async def until_all_have_ended(stack: Stack) -> None:
    """Wait for the end of every operation; TimeoutError where none ends any more."""
    began = changed = told = time.monotonic()
    before = -1
    while open := (await stack.sql(OPEN))[0][0]:
        at = time.monotonic()
        if open != before:
            before, changed = open, at
        if at - told > TELL_EVERY:
            told = at
            print(f"{at - began:.0f} s: {open} open", file=sys.stderr, flush=True)
        if at - changed > STALLED:
            raise TimeoutError(f"{open} operations have been open for {STALLED:.0f} s")
        await asyncio.sleep(1)


@asynccontextmanager
async def users(stack: Stack, number: int) -> AsyncIterator[list[User]]:
    """So many new users, each with some ACTIVE VMs."""
    async with AsyncExitStack() as clients:
        logged_in = [await clients.enter_async_context(log_in(stack)) for _ in range(number)]
        for user in logged_in:
            user.http.timeout = httpx.Timeout(60)
        yield logged_in


async def requests_of(stack: Stack, crowd: Sequence[User], count: int) -> list[Request]:
    """What is asked of the API: eight creates to a volume and a stop, by all users, in a random order."""
    each = count // len(crowd)
    await stack.sql(SEED, OLD, IMAGE, min(each // 10, 100))
    create = {"name": "vm", "flavor_id": (await crowd[0].flavors())[0]}
    asked: list[Request] = []
    for user in crowd:
        vms = (await user.read("/vms?page_size=100&status=ACTIVE"))["items"][: each // 10]
        own: list[Request] = [(user, f"/vms/{vm['id']}/actions/stop", {}) for vm in vms]
        own += [(user, "/volumes", {"name": "data", "size_gb": 1})] * (each // 10)
        asked += own + [(user, "/vms", create)] * (each - len(own))
    random.shuffle(asked)
    return asked


async def ask(requests: Sequence[Request], name: str) -> float:
    """Ask for all, by many callers at a time; seconds until all are accepted."""
    left = iter(enumerate(requests))

    async def call() -> None:
        for number, (user, path, body) in left:
            answer = await user.request("POST", path, json=body, headers={"X-Request-Id": f"{name}-{number}"})
            if answer.status_code != HTTPStatus.ACCEPTED:
                raise RuntimeError(answer.text)

    began = time.monotonic()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return time.monotonic() - began


async def one_by_one(stack: Stack, user: User, name: str) -> tuple[object, ...]:
    """Some creates of one user, each when the one before has ended, and how long they took."""
    for number in range(LATE):
        vm = await user.create("late", **{"X-Request-Id": f"{name}-{number}"})
        await user.until(vm["id"], "ACTIVE")
    return await took(stack, name)


async def took(stack: Stack, name: str) -> tuple[object, ...]:
    """Seconds from an operation's acceptance to its end, by the database's clock: how many, median, most."""
    seconds = [row[0] for row in await stack.sql(TOOK, f"{name}-%")]
    return name, len(seconds), statistics.median(seconds), max(seconds)


async def crowd(stack: Stack, count: int) -> None:
    """Many operations of many users at once, and somebody who comes late."""
    async with users(stack, USERS) as many, users(stack, 1) as [late], watching(stack) as most:
        late.poll_every = 0.2
        rows = [await one_by_one(stack, late, "late.alone")]
        asked = await requests_of(stack, many, count // 5)
        before = temporal_timeouts(stack)
        seconds = await ask(asked, "crowd")
        rows.append(await one_by_one(stack, late, "late.in.crowd"))
        await until_all_have_ended(stack)
        rows.append(await took(stack, "crowd"))
        create = next((path, body) for _, path, body in asked if path == "/vms")
        await ask([(many[0], *create)] * (len(asked) // 4), "one")
        rows.append(await one_by_one(stack, late, "late.beside.one"))
        await until_all_have_ended(stack)
        rows.append(await took(stack, "one"))
    table("operations", "how many", "median s", "slowest s", rows=rows)
    timeouts = difference(before, temporal_timeouts(stack))
    figures = {"accepted, in a second": len(asked) / seconds, **most, **timeouts}
    table(f"{len(asked)} at once", "", rows=figures.items())


async def work(user: User) -> tuple[list[float], Counter[int]]:
    """A caller who reads and creates, one thing after the other: how long each took, and what was answered."""
    seconds, answers = [], Counter[int]()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for method, path, body in [("GET", "/vms", None), ("POST", "/volumes", {"name": "data", "size_gb": 1})]:
            began = time.monotonic()
            answer = await user.http.request(method, path, json=body, headers={"X-Request-Id": "bench"})
            seconds.append(time.monotonic() - began)
            answers[answer.status_code] += 1
            await asyncio.sleep(0.02)
    return sorted(seconds), answers


@contextmanager
def answered(stack: Stack) -> Iterator[Counter[str]]:
    """Count the answers by the API's own log, but for those to requests of the bench."""
    log = stack.data_dir / "logs" / "api.log"
    before, answers = log.stat().st_size, Counter[str]()
    yield answers
    with log.open() as file:
        file.seek(before)
        answers.update(STATUS.findall(file.read()))


@asynccontextmanager
async def wrk(url: str, connections: int, token: str, body: str = "") -> AsyncIterator[None]:
    """Call as often as it goes, whatever is answered."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        headers = f'wrk.headers["Authorization"] = "{token}"\nwrk.headers["Content-Type"] = "application/json"\n'
        lua.write(headers + (f'wrk.method = "POST"\nwrk.body = [[{body}]]\n' if body else ""))
        lua.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS + 2}s", "-s", lua.name, url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        await asyncio.sleep(1)
        yield
        await process.wait()


async def flood(stack: Stack, _count: int) -> None:
    """One caller asks far too much, and another works."""
    async with users(stack, 2) as [rude, user]:
        create = '{"name": "data", "size_gb": 1}'
        login = '{"username": "nobody", "password": "Wrong-Horse-1"}'
        token = rude.http.headers["Authorization"]
        rows = [(await row(stack, "nobody else", user))]
        for what, path, connections, who, body in [
            (f"{FLOOD} connections that read", "/vms", FLOOD, token, ""),
            (f"{FLOOD} connections that create", "/volumes", FLOOD, token, create),
            ("64 connections that log in", "/auth/login", 64, "", login),
        ]:
            async with wrk(stack.url + path, connections, who, body):
                rows.append(await row(stack, what, user))
    table("another caller", "requests", "median ms", "99th percentile ms", "answers", "the flood's answers", rows=rows)


async def row(stack: Stack, what: str, user: User) -> tuple[object, ...]:
    """How long the caller's requests take."""
    with answered(stack) as others:
        seconds, own = await work(user)
    slow = seconds[int(0.99 * len(seconds))]
    told = [", ".join(f"{status}: {number}" for status, number in sorted(one.items())) for one in (own, others)]
    return what, len(seconds), 1000 * statistics.median(seconds), 1000 * slow, *told


async def away(stack: Stack, count: int) -> None:
    """Accept many operations without a worker, and have them done when it is back."""
    async with users(stack, USERS) as many, users(stack, 1) as [late], watching(stack) as most:
        asked = await requests_of(stack, many, count)
        before, used = temporal_timeouts(stack), {part: cpu(stack, part) for part in PARTS}
        with stack.unattended():
            stack.kill("worker")
            seconds = await ask(asked, "away")
            [[back]] = await stack.sql("SELECT now()")
        await asyncio.sleep(IN_THE_MIDDLE)
        rows = [await one_by_one(stack, late, "late.after")]
        await until_all_have_ended(stack)
        rows.append(await took(stack, "away"))
        [[took_all]] = await stack.sql(SPAN, "away-%", back)
    table("operations", "how many", "median s", "slowest s", rows=rows)
    figures = {"accepted, in a second": len(asked) / seconds, "s from the worker's return to the last end": took_all}
    figures |= {"ended, in a second": len(asked) / took_all} | most
    figures |= difference(before, temporal_timeouts(stack))
    used["worker"] = 0.0  # this one is new
    figures |= {f"{part}, CPU ms each": 1000 * (cpu(stack, part) - used[part]) / len(asked) for part in PARTS}
    table(f"{len(asked)} without a worker", "", rows=figures.items())


async def run(stack: Stack, count: int, parts: Sequence[str]) -> list[str]:
    """Measure; returns what is wrong."""
    wrong = []
    for name, part in {"crowd": crowd, "flood": flood, "away": away}.items():
        if name in parts or not parts:
            try:
                await part(stack, count)
            except TimeoutError as error:
                wrong.append(f"{name}: {error}")
            await until_all_have_ended(stack)
    [[unhappy]] = await stack.sql(UNHAPPY)
    return [*wrong, f"{unhappy} operations did not succeed"] if unhappy else wrong


def main() -> None:
    """Start the stack, measure, stop it."""
    count, *parts = sys.argv[1:] or ["10000"]
    on_a_stack(SETTINGS, lambda stack: run(stack, int(count), parts))


if __name__ == "__main__":
    main()
