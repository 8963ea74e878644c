"""Requests per second of an earlier version and of this one, in turn: `python -m bench.versions CHECKOUT [ROUNDS]`.

CHECKOUT is a folder with the other version. Its processes run with the packages of this environment. Needs wrk.

Both have a database of their own in one PostgreSQL server, which is started here, and an API process without a worker.
Each request is measured with one version, then at once with the other. The result is the median of the ratios.
"""

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError

import asyncpg

from bench.http import prepare, wrk
from bench.lists import database
from bench.usage import table

HERE = Path(__file__).parent.parent
PORTS = (19_997, 19_998)
ROUNDS = 3  # of eight seconds for each request and version
NAMES = ("GET /vms/{id}", "GET /vms, 20 items", "POST /vms")
Request = tuple[str, str, dict[str, Any] | None]


@contextmanager
def api(checkout: Path, url: str, name: str, port: int) -> Iterator[str]:
    """Migrate a new database and run an API process of the version on it; yields the API's address."""
    server, _, options = url.partition("?")
    own = f"{server.rpartition('/')[0]}/{name}?{options}"
    settings = {"DATABASE_URL": own, "TEMPORAL_ADDRESS": "127.0.0.1:1", "LOG_LEVEL": "ERROR", "API_PORT": str(port)}
    environment = os.environ | settings | {"SECRET_KEY": "b" * 48}
    asyncio.run(_create(url, name))
    # It ends with an error, because Temporal is away, but only once the schema is ready.
    subprocess.run(
        [sys.executable, "-m", "migrations"], cwd=checkout, env=environment, capture_output=True, check=False
    )
    process = subprocess.Popen([sys.executable, "-m", "api"], cwd=checkout, env=environment)
    try:
        address = f"http://127.0.0.1:{port}/api/v1"
        while not _answers(f"{address}/health/live"):
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


async def _create(url: str, name: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()  # noqa: S310 - our own process
    except URLError:
        return False
    return True


def requests_to(address: str) -> list[Request]:
    """The requests in the order of NAMES, of a new user with twenty VMs."""
    token, flavor, vm = prepare(address)
    new = {"name": "vm", "flavor_id": flavor}
    return [(f"{address}/vms/{vm}", token, None), (f"{address}/vms", token, None), (f"{address}/vms", token, new)]


def main() -> None:
    """Measure, and print one row for each request."""
    other, rounds = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS  # noqa: PLR2004
    rates: dict[str, list[tuple[float, ...]]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        url = stack.enter_context(database())
        versions = [
            requests_to(stack.enter_context(api(checkout, url, name, port)))
            for checkout, name, port in zip((other, HERE), ("earlier", "this"), PORTS, strict=True)
        ]
        for turn in range(rounds):
            for name, *both in zip(NAMES, *versions, strict=True):
                order = both if turn % 2 == 0 else both[::-1]
                found = [_rate(*request) for request in order]
                rates[name].append(tuple(found if turn % 2 == 0 else found[::-1]))
    rows = [
        (
            name,
            *(median(column) for column in zip(*pairs, strict=True)),
            median(this / earlier for earlier, this in pairs),
        )
        for name, pairs in rates.items()
    ]
    table("requests/s", "earlier", "this", "ratio", rows=rows)


def _rate(url: str, token: str, body: dict[str, Any] | None) -> float:
    rate, _, bad = wrk(url, token, body)
    if bad:
        raise SystemExit(f"{bad} answers were no 2xx")
    return rate


if __name__ == "__main__":
    main()
