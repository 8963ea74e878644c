"""What it costs to look up the token of a program in each request: `python -m bench.tokens [ROUNDS]`. Needs wrk.

Starts a PostgreSQL server in a temporary folder and an API process on it. Then the same VM is read with an access
token, which is only verified, and with a token for programs, in turn: by one client, and by 32 connections.
"""

import asyncio
import sys
import time
from statistics import median

import httpx

from bench.load import Request, call, load, need_wrk, prepare
from bench.processes import api, new_database, postgres
from bench.usage import table

KINDS = ("access token", "token for programs")
ROUNDS = 5  # of eight seconds for each kind
WARM_UP, READS = 50, 1_000


async def one_client(base: str, path: str, tokens: dict[str, str]) -> dict[str, list[float]]:
    """The milliseconds of each read, one after the other, the kinds in turn."""
    taken: dict[str, list[float]] = {kind: [] for kind in tokens}
    async with httpx.AsyncClient(base_url=base, timeout=60) as http:
        for kind in list(tokens) * (WARM_UP + READS):
            started_at = time.perf_counter()
            answer = await http.get(path, headers={"Authorization": f"Bearer {tokens[kind]}"})
            taken[kind].append(1000 * (time.perf_counter() - started_at))
            answer.raise_for_status()
    return {kind: times[WARM_UP:] for kind, times in taken.items()}


def main() -> None:
    """Measure and print one row for each kind of token."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    need_wrk()
    with postgres("-F") as server, api(new_database(server.url, "bench")) as service:
        base = service.url
        access, _, vm = prepare(base)
        made = call(f"{base}/tokens", {"name": "bench", "scopes": ["read"]}, access)["token"]
        tokens = dict(zip(KINDS, (access, made), strict=True))
        alone = asyncio.run(one_client(base, f"/vms/{vm}", tokens))
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for kind in KINDS * rounds:
            rates[kind].append(load(Request(f"{base}/vms/{vm}", [tokens[kind]])).rate)
    rows = [(kind, median(alone[kind]), sorted(alone[kind])[int(0.99 * READS)], median(rates[kind])) for kind in KINDS]
    table("GET /vms/{id} with", "alone: median, ms", "99 %, ms", "32 connections: requests/s", rows=rows)


if __name__ == "__main__":
    main()
