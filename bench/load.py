"""Sends load with wrk, and tells how fast it was answered and what processor time that took."""

import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from bench.processes import Process

CONNECTIONS = 32
SECONDS = 8
SCRIPT = """
local tokens, requests, next = {tokens}, {{}}, 0
function init()
  for index, token in ipairs(tokens) do
    local headers = {{["Content-Type"] = "application/json", Authorization = "Bearer " .. token}}
    requests[index - 1] = wrk.format({method}, nil, headers, {body})
  end
end
function request()
  next = (next + 1) % #tokens
  return requests[next]
end
function done(summary, latency)
  local errors = summary.errors
  local bad = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  io.stderr:write(string.format("%d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), bad))
end
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent: a GET, or a POST if there is a body; the tokens take turns."""

    url: str
    tokens: Sequence[str] = ("",)
    body: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a load has met: requests per second, and milliseconds until the answer."""

    rate: float
    p50: float
    p99: float
    count: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A load, with the milliseconds of processor time of the service and of PostgreSQL for each request."""

    rate: float
    p50: float
    p99: float
    service: float
    postgres: float

    @property
    def cpu(self) -> float:
        """All milliseconds of processor time for a request."""
        return self.service + self.postgres


def need_wrk() -> None:
    """End with one line if there is no wrk."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed: apt-get install wrk (or brew install wrk)")


@contextmanager
def _wrk(request: Request, connections: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    script = SCRIPT.format(
        tokens="{" + ", ".join(map(json.dumps, request.tokens)) + "}",
        method='"GET"' if request.body is None else '"POST"',
        body="nil" if request.body is None else f"[[{json.dumps(request.body)}]]",
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(script)
        lua.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", lua.name, request.url]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            yield process


def load(request: Request, connections: int = CONNECTIONS, seconds: float = SECONDS) -> Load:
    """Send the request over and over; SystemExit if an answer is no success."""
    with _wrk(request, connections, seconds) as process:
        out = process.communicate()[1]
    try:
        count, duration, p50, p99, bad = map(int, out.split())
    except ValueError:
        raise SystemExit(f"unexpected output of wrk: {out}") from None
    if bad:
        raise SystemExit(f"{bad} answers to {request.url} were no 2xx")
    return Load(1e6 * count / duration, p50 / 1000, p99 / 1000, count)


def measure(request: Request, service: Process, postgres: Process, seconds: float = SECONDS) -> Measured:
    """Send the request over and over, and note the processor time of both."""
    before = service.cpu, postgres.cpu
    found = load(request, seconds=seconds)
    after = service.cpu, postgres.cpu
    spent = [1000 * (end - start) / found.count for start, end in zip(before, after, strict=True)]
    return Measured(found.rate, found.p50, found.p99, *spent)


def call(url: str, body: dict[str, Any] | None = None, token: str | None = None, method: str | None = None) -> Any:
    """Send one request with a JSON body; returns the body of the answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - the URL is our own
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.load(answer)


def prepare(api: str) -> tuple[str, str, str]:
    """Register a user and create twenty VMs; returns a token, the id of a flavor and the id of a VM."""
    name = f"bench-{uuid4().hex[:12]}"
    login = {"username": name, "password": "Correct-Horse-1"}
    call(f"{api}/auth/register", login | {"email": f"{name}@example.com"})
    token = call(f"{api}/auth/login", login)["access_token"]
    flavor = call(f"{api}/flavors", token=token)["items"][0]["id"]
    vms = [call(f"{api}/vms", {"name": f"vm-{n}", "flavor_id": flavor}, token)["id"] for n in range(20)]
    return token, flavor, vms[0]
