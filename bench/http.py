"""Requests per second of one API process, compared with the floor: `DATABASE_URL=... python -m bench.http API_URL`.

Needs `wrk` and a running API. The floor is started here on the same database, and both are measured alternately: the
ratio is the result. A running worker takes processor time from the API, so run the API without one.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from typing import Any
from uuid import uuid4

CONNECTIONS = 32
SECONDS = 8
FLOOR_PORT = 19_999


def call(url: str, body: dict[str, Any] | None = None, token: str | None = None) -> Any:
    """Send one request with a JSON body; returns the body of the answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 - the URL comes from the command line
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.load(answer)


def wrk(url: str, token: str = "", body: dict[str, Any] | None = None) -> tuple[float, str, int]:
    """Measure a GET, or a POST if there is a body; returns requests per second, 99th percentile, non-2xx answers."""
    script = 'wrk.headers["Content-Type"] = "application/json"\n'
    script += f'wrk.headers["Authorization"] = "Bearer {token}"\n'
    if body is not None:
        script += f'wrk.method = "POST"\nwrk.body = [[{json.dumps(body)}]]\n'
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(script)
        lua.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", lua.name, url]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    p99 = re.search(r"99%\s+(\S+)", out)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    if not rate or not p99:
        raise SystemExit(f"unexpected output of wrk:\n{out}")
    return float(rate[1]), p99[1], int(bad[1]) if bad else 0


def prepare(api: str) -> tuple[str, str, str]:
    """Register a user and create twenty VMs; returns a token, the id of a flavor and the id of a VM."""
    name = f"bench-{uuid4().hex[:12]}"
    login = {"username": name, "password": "Correct-Horse-1"}
    call(f"{api}/auth/register", login | {"email": f"{name}@example.com"})
    token = call(f"{api}/auth/login", login)["access_token"]
    flavor = call(f"{api}/flavors", token=token)["items"][0]["id"]
    vms = [call(f"{api}/vms", {"name": f"vm-{n}", "flavor_id": flavor}, token)["id"] for n in range(20)]
    return token, flavor, vms[0]


def measure(api: str, floor: str) -> None:
    """Print a row for each kind of request: the API's rate, the floor's rate and their ratio."""
    token, flavor, vm = prepare(api)
    new = {"name": "bench", "flavor_id": flavor}
    row = {"id": str(uuid4()), "name": "one"}
    kinds: list[tuple[str, tuple[str, str, Any], tuple[str, str, Any]]] = [
        ("GET /health | constant", (f"{api}/health", "", None), (f"{floor}/constant", "", None)),
        ("GET /vms/{id} | one SELECT", (f"{api}/vms/{vm}", token, None), (f"{floor}/select", "", None)),
        ("GET /vms (20) | one SELECT", (f"{api}/vms", token, None), (f"{floor}/select", "", None)),
        ("POST /vms | one INSERT", (f"{api}/vms", token, new), (f"{floor}/insert", "", row)),
    ]
    print(
        "| request | floor | API req/s | p99 | floor req/s | p99 | ratio | not 2xx |\n|---|---|---|---|---|---|---|---|"
    )
    for name, api_request, floor_request in kinds:
        rate, p99, bad = wrk(*api_request)
        floor_rate, floor_p99, _ = wrk(*floor_request)
        print(f"| {name} | {rate:.0f} | {p99} | {floor_rate:.0f} | {floor_p99} | {rate / floor_rate:.2f} | {bad} |")


def main() -> None:
    """Start the floor, measure, stop it."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed: apt-get install wrk")
    floor = subprocess.Popen([sys.executable, "-m", "bench.floor", str(FLOOR_PORT)])
    try:
        time.sleep(2)
        measure(sys.argv[1].rstrip("/"), f"http://127.0.0.1:{FLOOR_PORT}")
    finally:
        floor.terminate()
        floor.wait()


if __name__ == "__main__":
    main()
