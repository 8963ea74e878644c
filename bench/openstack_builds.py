"""Many builds at once on a real cloud: `python -m bench.openstack_builds [COUNT...]`, by default 1, 10 and 100.

Prints how often the service polls the cloud while so many builds are in flight, which other requests it sends, and the
threads and the memory of its worker. The quota of the project must allow them. About ten minutes on two cores.
"""

import asyncio
import re
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from bench.cloud_calls import Calls, with_counted_stack
from bench.usage import cpu, exit_with, memory, table
from tests.openstack.drill import until_listed
from tests.support.stack import Stack
from tests.support.users import User, log_in
from tests.support.waiting import poll

CONCURRENT = 16  # requests
LIMIT = 1200.0  # seconds
POLLS = "GET compute /servers/detail?changes-since"


async def build(stack: Stack, user: User, calls: Calls, count: int) -> tuple[tuple[object, ...], Counter[str]]:
    """Build that many VMs and delete them; returns a row of the table, and the requests to the cloud."""
    flavor = (await user.flavors())[0]
    calls.clear()
    used, began = cpu(stack, "worker"), time.monotonic()
    numbers = iter(range(count))
    vm_ids: list[str] = []

    async def create_some() -> None:
        for number in numbers:
            answer = await user.request("POST", "/vms", json={"name": f"bench-{number}", "flavor_id": flavor})
            vm_ids.append(answer.json()["id"])

    await asyncio.gather(*(create_some() for _ in range(CONCURRENT)))
    accepted = time.monotonic() - began
    threads = 0

    async def count_open() -> int:
        nonlocal threads
        threads = max(threads, _threads(stack))
        return int((await user.read("/operations?status=QUEUED,RUNNING&page_size=1"))["total"])

    await poll(count_open, lambda number: number == 0, deadline=LIMIT, interval=0.5)
    seconds, sent = time.monotonic() - began, Counter(calls)
    active = (await user.read("/vms?status=ACTIVE&page_size=1"))["total"]
    used, held = cpu(stack, "worker") - used, memory(stack, "worker")
    for vm_id in vm_ids:
        await user.request("DELETE", f"/vms/{vm_id}")
    await poll(count_open, lambda number: number == 0, deadline=LIMIT, interval=0.5)
    polls = sent[POLLS]
    each = (sent.total() - polls) / count
    return (count, active, accepted, seconds, polls / seconds, sent.total() / seconds, each, threads, held, used), sent


def _threads(stack: Stack) -> int:
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in stack.pids("worker"))
    return sum(int(number) for number in re.findall(r"^Threads:\s+(\d+)", status, re.MULTILINE))


async def measure(stack: Stack, calls: Calls, counts: list[int]) -> list[str]:
    """Measure all counts and print the tables; returns errors."""
    rows, errors = [], []
    async with log_in(stack) as user:
        await until_listed(user)
        for count in counts:
            row, sent = await build(stack, user, calls, count)
            rows.append(row)
            table(
                f"requests of {count} builds", "times", "each", rows=[(*of, of[1] / count) for of in sent.most_common()]
            )
            if row[1] != count:
                errors.append(f"{row[1]} of {count} became ACTIVE")
    columns = ("builds", "ACTIVE", "s until accepted", "s until all are ACTIVE", "list polls per s", "requests per s")
    table(*columns, "requests each without polls", "threads", "worker, MB", "worker, CPU s", rows=rows)
    return errors


def main() -> None:
    """Print the tables."""
    counts = [int(count) for count in sys.argv[1:] or ("1", "10", "100")]
    exit_with(asyncio.run(with_counted_stack(partial(measure, counts=counts))))


if __name__ == "__main__":
    main()
