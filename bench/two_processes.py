"""What a second API process adds: `python -m bench.two_processes [ROUNDS]`. Needs wrk.

One process and two serve the same 32 connections in turn, and so do one and two processes of the floor. The floor shows
what two processes can add on this machine, where wrk and PostgreSQL take their part of the same cores.
"""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from bench.http import API, ROUNDS, ROWS, SECONDS, Ratio, Site, site
from bench.load import CONNECTIONS, Request, load, need_wrk
from bench.processes import UNLIMITED, Process, api
from bench.usage import table
from domain.settings import Settings

FLOOR = "hand-written"
KINDS = ("get", "post")


def _pairs(stack: ExitStack, running: Site) -> Mapping[str, tuple[Sequence[Process], Sequence[Process]]]:
    """One and two processes of the API and of the floor."""
    floors = [running.floor, stack.enter_context(api(running.database_url, program="bench.floor"))]
    if "api_processes" in Settings.model_fields:  # they share a port
        both = [stack.enter_context(api(running.database_url, UNLIMITED | {"API_PROCESSES": "2"}))]
    else:
        both = [running.api, stack.enter_context(api(running.database_url))]
    return {API: ([running.api], both), FLOOR: ([running.floor], floors)}


def _rate(request: Request, path: str, processes: Sequence[Process]) -> float:
    """Requests per second that the processes answer together."""
    each = [replace(request, url=f"{process.url}{path}") for process in processes]
    with ThreadPoolExecutor(len(each)) as pool:
        return sum(one.rate for one in pool.map(lambda one: load(one, CONNECTIONS // len(each), SECONDS), each))


def measure(running: Site, rounds: int) -> dict[str, dict[str, Ratio]]:
    """The ratios of the rates of two processes and one: for each kind of request, of the API and of the floor."""
    found: dict[str, dict[str, Ratio]] = {}
    with ExitStack() as stack:
        pairs = _pairs(stack, running)
        for kind in KINDS:
            request = ROWS[kind](running)[API][0]
            path = request.url.removeprefix(running.api.url)
            ratios: dict[str, list[float]] = {name: [] for name in pairs}
            for _ in range(rounds):
                for name, (one, two) in pairs.items():
                    alone = _rate(request, path, one)
                    ratios[name].append(_rate(request, path, two) / alone)
            found[kind] = {name: Ratio.of(each) for name, each in ratios.items()}
    return found


def main() -> None:
    """Measure and print."""
    need_wrk()
    with site() as running:
        found = measure(running, int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
    rows = [(kind, str(ratios[API]), str(ratios[FLOOR])) for kind, ratios in found.items()]
    table("two processes, by the rate of one", "API", "floor", rows=rows)


if __name__ == "__main__":
    main()
