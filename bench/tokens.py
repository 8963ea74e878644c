"""What it costs to look up the token of a program in each request: `python -m bench.tokens [ROUNDS]`. Needs wrk.

Starts a PostgreSQL server in a temporary folder and an API process on it. Then the same VM is read with an access
token, which is only verified, and with a token for programs, in turn: by one client, and by 32 connections.
"""

import asyncio
import sys
import time
from statistics import median

import httpx

from bench.http import call, prepare, wrk
from bench.lists import API, api, database
from bench.usage import table
from migrations.__main__ import migrate
from tests.conftest import make_settings

KINDS = ("access token", "token for programs")
ROUNDS = 5  # of eight seconds for each kind
WARM_UP, READS = 50, 1_000
BASE = f"{API}/api/v1"


async def one_client(path: str, tokens: dict[str, str]) -> dict[str, list[float]]:
    """The milliseconds of each read, one after the other, the kinds in turn."""
    taken: dict[str, list[float]] = {kind: [] for kind in tokens}
    async with httpx.AsyncClient(base_url=BASE, timeout=60) as http:
        for kind in list(tokens) * (WARM_UP + READS):
            started_at = time.perf_counter()
            answer = await http.get(path, headers={"Authorization": f"Bearer {tokens[kind]}"})
            taken[kind].append(1000 * (time.perf_counter() - started_at))
            answer.raise_for_status()
    return {kind: times[WARM_UP:] for kind, times in taken.items()}


def main() -> None:
    """Measure and print one row for each kind of token."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with database() as url:
        asyncio.run(migrate(make_settings(url)))
        with api(url):
            access, _, vm = prepare(BASE)
            made = call(f"{BASE}/tokens", {"name": "bench", "scopes": ["read"]}, access)["token"]
            tokens = dict(zip(KINDS, (access, made), strict=True))
            alone = asyncio.run(one_client(f"/vms/{vm}", tokens))
            rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for kind in KINDS * rounds:
                rate, _, bad = wrk(f"{BASE}/vms/{vm}", tokens[kind])
                rates[kind].append(rate)
                if bad:
                    raise SystemExit(f"{bad} answers were no 2xx")
    rows = [(kind, median(alone[kind]), sorted(alone[kind])[int(0.99 * READS)], median(rates[kind])) for kind in KINDS]
    table("GET /vms/{id} with", "alone: median, ms", "99 %, ms", "32 connections: requests/s", rows=rows)


if __name__ == "__main__":
    main()
