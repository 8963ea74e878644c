"""The API beside the floor: `python -m bench.http [ROUNDS [ROW...]]`. Needs wrk; starts everything else itself.

A row of ROWS is a kind of request. In each round it is answered by the API and, just before or after, in each way of
the floor (see `bench.floor`), for three seconds each. Other work on the machine slows down all of them alike. A ratio
is the API's requests per second divided by those of the floor or, which hardly depends on what else the machine does,
the floor's processor time for a request divided by that of the API. On a quiet machine the two agree, because a single
process of Python is what limits both.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from api.web import security
from api.web.security import LoginCaller, Signing
from bench import floor_sql, processes
from bench.load import Measured, Request, call, measure, need_wrk
from bench.processes import SECRET, Process
from bench.usage import table

ROUNDS, SECONDS, WARM_UP = 5, 3, 1
WRITERS = 32
API, HAND_WRITTEN = "API", "hand-written"
USER = "INSERT INTO users (id, username, email, password_hash) VALUES ($1, $2, $2, '')"

Levels = Mapping[str, tuple[Request, Process]]
Rounds = Mapping[str, Sequence[Measured]]


@dataclass(frozen=True, slots=True)
class Site:
    """What runs: both services on one database, with the tokens of a reader who has 20 VMs and of many writers."""

    api: Process
    floor: Process
    postgres: Process
    reader: str
    writers: Sequence[str]
    database_url: str
    flavor_id: str
    vm_id: str

    def levels(self, path: str, name: str, tokens: Sequence[str], body: dict[str, Any] | None = None) -> Levels:
        """The ways in which a request is answered, from the least work to the API."""
        floor = self.floor.url.removesuffix("/api/v1")
        paths = {
            "constant": f"{floor}/constant/{name}",
            "token": f"{floor}/token/{name}",
            "lean": f"{floor}/lean{path}",
            HAND_WRITTEN: f"{self.floor.url}{path}",
        }
        levels = {level: (Request(url, tokens, body), self.floor) for level, url in paths.items()}
        return levels | {API: (Request(f"{self.api.url}{path}", tokens, body), self.api)}


def _get(site: Site) -> Levels:
    return site.levels(f"/vms/{site.vm_id}", "get", [site.reader])


def _list(site: Site) -> Levels:
    return site.levels("/vms", "list", [site.reader])


def _post(site: Site) -> Levels:
    return site.levels("/vms", "post", site.writers, _new_vm(site))


def _post_of_one(site: Site) -> Levels:
    return site.levels("/vms", "post", site.writers[:1], _new_vm(site))


ROWS: Mapping[str, Callable[[Site], Levels]] = {"get": _get, "list": _list, "post": _post, "post-one": _post_of_one}
NAMES = {
    "get": "GET /vms/{id}",
    "list": "GET /vms, 20 items",
    "post": "POST /vms, 32 projects",
    "post-one": "POST /vms, one project",
}


def _new_vm(site: Site) -> dict[str, Any]:
    return {"name": "bench", "flavor_id": site.flavor_id}


def token(name: str, id: UUID) -> str:
    """An access token of the user."""
    caller, lifetime = LoginCaller(id, name, uuid4()), timedelta(hours=12)
    return security.sign(Signing(SECRET, "HS256"), "access", caller, uuid4(), lifetime)


async def _add_users(url: str, count: int) -> list[str]:
    """Add users; returns their tokens."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    users = {f"bench-{number}": uuid4() for number in range(count)}
    await connection.executemany(USER, [(id, name) for name, id in users.items()])
    await connection.close()
    return [token(name, id) for name, id in users.items()]


@contextmanager
def site() -> Iterator[Site]:
    """Start PostgreSQL, the API and the floor."""
    with ExitStack() as stack:
        postgres = stack.enter_context(processes.postgres())
        url = processes.new_database(postgres.url, "bench")
        reader, *writers = asyncio.run(_add_users(url, 1 + WRITERS))
        asyncio.run(floor_sql.make_tables(url))
        api = stack.enter_context(processes.api(url))
        floor = stack.enter_context(processes.api(url, program="bench.floor"))
        flavor_id = call(f"{api.url}/flavors", token=reader)["items"][0]["id"]
        new = {"name": "bench", "flavor_id": flavor_id}
        vms = [call(f"{api.url}/vms", new, reader)["id"] for _ in range(20)]
        found = Site(api, floor, postgres, reader, writers, url, flavor_id, vms[0])
        _make_equal(found)
        yield found


def _make_equal(site: Site) -> None:
    """Give the floor its constants, which are the API's answers; check that its other answers are the API's, too."""
    of_new = {"id", "operation_id", "addresses", "created_at", "updated_at"}
    for name, path, new, may_differ in (
        ("get", f"/vms/{site.vm_id}", None, set[str]()),
        ("list", "/vms", None, {"next_changes_since"}),
        ("post", "/vms", _new_vm(site), of_new),
    ):
        token = site.writers[0] if new else site.reader
        ours, theirs = (call(f"{each.url}{path}", new, token) for each in (site.api, site.floor))
        different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        if different - may_differ:
            raise SystemExit(f"{path}: the floor's answer differs in {different - may_differ}")
        call(f"{site.floor.url.removesuffix('/api/v1')}/constant/{name}", ours, method="PUT")


def rounds(levels: Levels, postgres: Process, number: int, seconds: float = SECONDS) -> Rounds:
    """Measure all levels in turn, in another order each time."""
    found: dict[str, list[Measured]] = {name: [] for name in levels}
    for request, service in levels.values():
        measure(request, service, postgres, WARM_UP)
    for turn in range(number):
        names = list(levels)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            request, service = levels[name]
            found[name].append(measure(request, service, postgres, seconds))
    return found


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the ratios of all rounds, and the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratio":
        """The ratio of these."""
        return cls(median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.greatest:.2f})"


def by_rate(found: Rounds, level: str) -> Ratio:
    """The API's requests per second, divided by those of the level."""
    return Ratio.of([mine.rate / other.rate for mine, other in zip(found[API], found[level], strict=True)])


def by_cpu(found: Rounds, level: str, field: str = "service") -> Ratio:
    """The level's processor time for a request, divided by that of the API; `cpu` counts PostgreSQL, too."""
    pairs = zip(found[API], found[level], strict=True)
    return Ratio.of([getattr(other, field) / getattr(mine, field) for mine, other in pairs])


COLUMNS = (
    *("request", "answered by", "req/s", "p50, ms", "p99, ms", "p99/p50", "service, µs", "PostgreSQL, µs"),
    *("ratio by rate", "by the service's CPU", "by all CPU"),
)


def lines(name: str, found: Rounds) -> Iterator[tuple[object, ...]]:
    """The lines of the table for a kind of request."""
    for level, each in found.items():
        rate, p50, p99, service, postgres = (
            median(getattr(one, field) for one in each) for field in ("rate", "p50", "p99", "service", "postgres")
        )
        ratios = (
            [by_rate(found, level), by_cpu(found, level), by_cpu(found, level, "cpu")] if level != API else [""] * 3
        )
        figures = (f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", f"{p99 / p50:.1f}", f"{1000 * service:,.0f}")
        yield (NAMES.get(name, name), level, *figures, f"{1000 * postgres:,.0f}", *map(str, ratios))


def main() -> None:
    """Measure the rows that are named, or all, and print the table."""
    need_wrk()
    number = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with site() as running:
        for name in sys.argv[2:] or ROWS:
            found = rounds(ROWS[name](running), running.postgres, number)
            table(*COLUMNS, rows=lines(name, found))


if __name__ == "__main__":
    main()
