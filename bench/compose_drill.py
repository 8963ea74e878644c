"""What users of a Compose installation notice of faults and upgrades: `python -m bench.compose_drill [DRILL...]`.

Needs a running installation (see docker-compose.yml) and root on its engine's machine, from which it kills processes.
Without arguments every drill runs, `engine` only if ENGINE_PID_FILE and ENGINE_START are set: the file with the process
id of the engine, and a command that starts it.

Each drill creates VMs and reads for some seconds before and after the fault, and waits until every VM is at rest. A
client repeats a request that failed with the same idempotency key, and tries the next API if one does not answer.
"""

import asyncio
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx

from bench.usage import exit_with, table

WRITERS, WRITE_PAUSE, READ_PAUSE, RETRY_PAUSE = 2, 0.5, 0.05, 0.1  # seconds
REQUEST_TIMEOUT, SETUP_TIMEOUT = 5.0, 60.0  # seconds
WARM_UP, AFTER = 3.0, 8.0  # seconds of load before and after the fault
CUT = 30.0  # seconds
AT_REST_LIMIT = 180.0  # seconds
PASSWORD = "Correct-Horse-1"  # noqa: S105 - of an account that the drill registers
IMAGE = "openstack-vm-api"
HEAD = ("drill", "no read for", "no write for", "failed requests", "VMs accepted / ACTIVE / servers", "at rest after")
RESULT = """
SELECT count(*), count(*) FILTER (WHERE vms.status = 'ACTIVE'), count(servers.id)
FROM vms LEFT JOIN mock_cloud.servers ON servers.vm_id = vms.id
WHERE owner_id = (SELECT id FROM users WHERE username = '{name}')"""


def run(*command: str, input: str | None = None) -> str:
    """Run a command; returns its output."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, input=input)
    if ended.returncode:
        raise SystemExit(f"{shlex.join(command)}: {ended.stderr}")
    return ended.stdout.strip()


def compose(*arguments: str) -> str:
    """Run a Compose command; returns its output."""
    return run("docker", "compose", *arguments)


def containers(service: str) -> list[str]:
    """The ids of a service's running containers."""
    return compose("ps", "--quiet", service).split()


def kill(service: str) -> None:
    """Kill the first process of each container from outside; `docker kill` would count as a wanted stop."""
    for container in containers(service):
        os.kill(int(run("docker", "inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)


def cut_off(service: str) -> None:
    """Take a service off the network for a while."""
    [container] = containers(service)
    network = run(
        "docker", "inspect", "--format", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}", container
    )
    run("docker", "network", "disconnect", network, container)
    time.sleep(CUT)
    run("docker", "network", "connect", "--alias", service, network, container)


def kill_engine() -> None:
    """Kill the engine and start it again."""
    engine = int(Path(os.environ["ENGINE_PID_FILE"]).read_text())
    os.kill(engine, signal.SIGKILL)
    while Path(f"/proc/{engine}").exists():
        time.sleep(RETRY_PAUSE)
    subprocess.run(os.environ["ENGINE_START"], shell=True, check=True, stdout=subprocess.DEVNULL)  # noqa: S602


def change_image() -> None:
    """Make a new version of the image, which differs only in a label."""
    run("docker", "build", "--tag", IMAGE, "--label", f"drill={time.time()}", "-", input=f"FROM {IMAGE}")


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Drill:
    """A fault, and what must be done before the load begins."""

    name: str
    what: str
    fault: Callable[[], object]
    prepare: Callable[[], object] = nothing


def run_other_version() -> None:
    """Let the installation run a version that differs from the checkout."""
    change_image()
    compose("up", "--detach", "--wait")


DRILLS = [
    Drill("api", "`kill -9` of each API", lambda: kill("api")),
    Drill("worker", "`kill -9` of all workers", lambda: kill("worker")),
    Drill("postgres", "`kill -9` of PostgreSQL", lambda: kill("postgres")),
    Drill("temporal", "`kill -9` of Temporal", lambda: kill("temporal")),
    Drill("ui", "`kill -9` of the Web UI", lambda: kill("temporal-ui")),
    Drill("cut-postgres", f"PostgreSQL cut off for {CUT:.0f} s", lambda: cut_off("postgres")),
    Drill("cut-temporal", f"Temporal cut off for {CUT:.0f} s", lambda: cut_off("temporal")),
    Drill("upgrade", "`make compose-upgrade`", lambda: run("make", "compose-upgrade"), run_other_version),
    Drill(
        "up",
        "upgrade with `docker compose up --build`",
        lambda: compose("up", "--build", "--detach"),
        run_other_version,
    ),
    Drill("engine", "`kill -9` of the engine, started again at once", kill_engine),
]


@dataclass
class Load:
    """Clients that create VMs and read; they note when requests succeed and how others fail."""

    urls: list[str]
    name: str
    token: str
    flavor: str
    client: httpx.AsyncClient
    written: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    async def succeeds(self, method: str, path: str, key: str = "", body: object = None) -> bool:
        """Send a request to one API after the other until one answers, and note an error."""
        headers = {"Authorization": f"Bearer {self.token}"} | ({"Idempotency-Key": key} if key else {})
        error = ""
        for url in self.urls:
            try:
                answer = await self.client.request(method, url + path, headers=headers, json=body)
            except httpx.ConnectError:
                error = "connection refused"
            except httpx.TimeoutException:
                error = "no answer"
            except httpx.TransportError:
                error = "connection lost"
            else:
                error = "" if answer.is_success else str(answer.status_code)
                break
        self.errors.update([error] if error else [])
        return not error

    async def write(self) -> None:
        """Create one VM after the other."""
        body, key, is_accepted = {"name": "drill", "flavor_id": self.flavor}, "", True
        while not (self.stopping and is_accepted):
            key = str(uuid4()) if is_accepted else key
            is_accepted = await self.succeeds("POST", "/vms", key, body)
            if is_accepted:
                self.written.append(time.monotonic())
            await asyncio.sleep(WRITE_PAUSE if is_accepted else RETRY_PAUSE)

    async def keep_reading(self) -> None:
        """Read a page of VMs over and over."""
        while not self.stopping:
            if await self.succeeds("GET", "/vms?page_size=1"):
                self.read.append(time.monotonic())
            await asyncio.sleep(READ_PAUSE)


def api_urls() -> list[str]:
    """The addresses of all running APIs."""
    ports = [
        run("docker", "port", container, "8000") for service in ("api", "api-more") for container in containers(service)
    ]
    return [f"http://{lines.splitlines()[0]}/api/v1" for lines in ports]


async def is_ready(client: httpx.AsyncClient, url: str) -> bool:
    """Whether the API answers and reaches its servers."""
    try:
        return (await client.get(f"{url}/health/ready")).is_success
    except httpx.TransportError:
        return False


async def start_load(client: httpx.AsyncClient) -> Load:
    """Register a user; returns clients that act for it."""
    urls, name = api_urls(), f"drill-{uuid4().hex[:12]}"
    while not await is_ready(client, urls[0]):  # noqa: ASYNC110 - the API has no event
        await asyncio.sleep(RETRY_PAUSE)
    login = {"username": name, "password": PASSWORD}
    register = await client.post(
        f"{urls[0]}/auth/register", json=login | {"email": f"{name}@example.com"}, timeout=SETUP_TIMEOUT
    )
    register.raise_for_status()
    token = (await client.post(f"{urls[0]}/auth/login", json=login, timeout=SETUP_TIMEOUT)).json()["access_token"]
    flavors = await client.get(f"{urls[0]}/flavors", headers={"Authorization": f"Bearer {token}"})
    return Load(urls, name, token, flavors.json()["items"][0]["id"], client)


async def until_at_rest(load: Load) -> tuple[float, list[int]]:
    """Wait until all VMs are ACTIVE; returns when, and the numbers of VMs, ACTIVE ones and servers."""
    deadline = time.monotonic() + AT_REST_LIMIT
    while True:
        query = (
            "psql",
            "--host=/var/run/postgresql",
            "--username=postgres",
            "-At",
            "--field-separator= ",
            "--dbname=vmapi",
        )
        row = await asyncio.to_thread(
            compose, "exec", "-T", "postgres", *query, "--command", RESULT.format(name=load.name)
        )
        numbers = [int(number) for number in row.split()]
        if numbers[0] == numbers[1] or time.monotonic() > deadline:
            return time.monotonic(), numbers
        await asyncio.sleep(0.5)


def longest_gap(times: list[float], since: float) -> float:
    """The longest time between two successes, of which the second came after the fault."""
    return max(later - earlier for earlier, later in itertools.pairwise(times) if later > since)


async def perform(drill: Drill) -> tuple[list[str], list[str]]:
    """Run a drill; returns the row of the table, and what is wrong."""
    await asyncio.to_thread(drill.prepare)
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        load = await start_load(client)
        running = asyncio.gather(*(load.write() for _ in range(WRITERS)), load.keep_reading())
        await asyncio.sleep(WARM_UP)
        began = time.monotonic()
        await asyncio.to_thread(drill.fault)
        ended = time.monotonic()
        while min(load.written[-1], load.read[-1]) < ended + AFTER:  # noqa: ASYNC110 - simpler than events
            await asyncio.sleep(RETRY_PAUSE)
        load.stopping = True
        await running
        stopped = time.monotonic()
        at_rest, [vms, active, servers] = await until_at_rest(load)
    accepted = len(load.written)
    wrong = [] if vms == active == servers == accepted else [f"{drill.name}: {accepted=} {vms=} {active=} {servers=}"]
    errors = ", ".join(f"{number} {error}" for error, number in sorted(load.errors.items())) or "none"
    gaps = [f"{longest_gap(times, began):.1f} s" for times in (load.read, load.written)]
    return [drill.what, *gaps, errors, f"{accepted} / {active} / {servers}", f"{at_rest - stopped:.1f} s"], wrong


async def main(names: list[str]) -> None:
    """Run the drills and print the table."""
    if unknown := set(names) - {drill.name for drill in DRILLS}:
        raise SystemExit(f"No such drill: {', '.join(sorted(unknown))}")
    chosen = [drill for drill in DRILLS if drill.name in names or not names]
    if "ENGINE_START" not in os.environ:
        chosen = [drill for drill in chosen if drill.name != "engine"]
    rows, wrong = [], []
    for drill in chosen:
        row, differences = await perform(drill)
        sys.stderr.write(f"{' | '.join(row)}\n")
        rows.append(row)
        wrong += differences
    table(*HEAD, rows=rows)
    exit_with(wrong)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
