"""A short benchmark, which fails when a request has become much slower: `python -m bench.short [--record]`.

It compares the API with the hand-written floor (see `bench.http`) by the processor time that a request takes in the
process that answers it. Rates change with what else the machine does; the ratio of two processor times that were
measured in turn hardly does. It fails if a ratio is a third lower than in RECORDED, where `--record` writes
those of this run. It takes about a minute and needs no wrk.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.http import API, HAND_WRITTEN, ROWS, site
from bench.load import Request
from bench.processes import Process
from bench.usage import cpu_of, table

RECORDED = Path(__file__).with_name("recorded.json")
KINDS = ("get", "list", "post")
CONNECTIONS, REQUESTS, TURNS = 8, 150, 8
MORE_TRIES = 2
MOST_LOST = 1 / 3
END_OF_HEAD, LENGTH = b"\r\n\r\n", b"content-length:"


def cost(request: Request, service: Process) -> int:
    """Send the request REQUESTS times; returns the nanoseconds of processor time that the service took."""
    before = _nanoseconds(service.pid)
    asyncio.run(_send_all(request, REQUESTS))
    return _nanoseconds(service.pid) - before


def _nanoseconds(pid: int) -> int:
    threads = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
    if not threads:  # this kernel counts hundredths of a second only
        return int(cpu_of(pid) * 1e9)
    return sum(int(file.read_text().split()[0]) for file in threads)


async def _send_all(request: Request, count: int) -> None:
    numbers = iter(range(count))
    await asyncio.gather(*(_send(request, numbers) for _ in range(CONNECTIONS)))


async def _send(request: Request, numbers: Iterator[int]) -> None:
    """Send a request for each number over one connection."""
    target = urlsplit(request.url)
    assert target.hostname  # noqa: S101 - it is the address of a process that was started here
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    body = b"" if request.body is None else json.dumps(request.body).encode()
    method = "GET" if request.body is None else "POST"
    for number in numbers:
        token = request.tokens[number % len(request.tokens)]
        head = [f"{method} {target.path} HTTP/1.1", f"Host: {target.netloc}", f"Authorization: Bearer {token}"]
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        writer.write("\r\n".join(head).encode() + END_OF_HEAD + body)
        answer = (await reader.readuntil(END_OF_HEAD)).lower()
        text = await reader.readexactly(int(answer.partition(LENGTH)[2].split(b"\r\n", 1)[0]))
        if not answer.startswith(b"http/1.1 20"):
            raise SystemExit(f"{method} {target.path}: {answer[:40]!r} {text[:500]!r}")
    writer.close()
    await writer.wait_closed()


def measure() -> dict[str, float]:
    """The ratio of each kind: the floor's processor time divided by the API's."""
    ratios = {}
    with site() as running:
        for kind in KINDS:
            levels = {name: each for name, each in ROWS[kind](running).items() if name in {API, HAND_WRITTEN}}
            for request, service in levels.values():
                cost(request, service)
            # The least of several turns: other processes empty the processor's caches, which only makes it more.
            spent: dict[str, list[int]] = {name: [] for name in levels}
            for _ in range(TURNS):
                for name, (request, service) in levels.items():
                    spent[name].append(cost(request, service))
            ratios[kind] = min(spent[HAND_WRITTEN]) / min(spent[API])
    return ratios


def slower(ratios: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """The kinds whose ratio is too low."""
    return [kind for kind, ratio in ratios.items() if ratio / recorded[kind] < 1 - MOST_LOST]


def main() -> None:
    """Measure, and compare with what was recorded."""
    ratios, recorded = measure(), json.loads(RECORDED.read_text())
    for _ in range(MORE_TRIES):
        if not slower(ratios, recorded):
            break
        # Other work on the machine may have met the API and not the floor. Slower code is slower each time.
        again = measure()
        ratios = {kind: max(ratio, again[kind]) for kind, ratio in ratios.items()}
    if "--record" in sys.argv:
        RECORDED.write_text(json.dumps({kind: round(ratio, 3) for kind, ratio in ratios.items()}, indent=2) + "\n")
        recorded = json.loads(RECORDED.read_text())
    table(
        *("request", "recorded ratio to the floor", "ratio now", "of it"),
        rows=[(kind, recorded[kind], ratio, ratio / recorded[kind]) for kind, ratio in ratios.items()],
    )
    if kinds := slower(ratios, recorded):
        raise SystemExit(f"Slower by more than a third: {', '.join(kinds)}. See docs/performance.md.")


if __name__ == "__main__":
    main()
