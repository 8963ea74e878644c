"""What a cloud's operations cost through this service: `python -m bench.openstack_overhead [ROUNDS]`, by default 5.

In each round a server is created, stopped, started, resized, confirmed, saved as an image and deleted: through the
service over HTTP; with openstacksdk directly, which polls every two seconds; and with openstacksdk polling as often as
our client does. All three alternate. Counts the requests that each sends to the cloud. Four minutes on two cores.
"""

import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from openstack import resource
from openstack.connection import Connection

from bench.cloud_calls import Calls, with_counted_stack
from bench.usage import exit_with, table
from tests.openstack import logins
from tests.openstack.drill import until_listed
from tests.support.stack import Stack
from tests.support.users import User, log_in, operation_path
from tests.support.waiting import poll

POLL: Final = 0.1  # seconds between two requests of a client that waits
SDK_DEFAULT: Final = 2.0
LIMIT: Final = 1.2
OPERATIONS: Final = ("create", "stop", "start", "resize", "confirm", "snapshot", "delete")
IDLE: Final = 60.0  # seconds


class Way(Protocol):
    """A way to operate one server; each method returns when the operation is over."""

    async def create(self) -> None:
        """Create the server."""

    async def stop(self) -> None:
        """Power it off."""

    async def start(self) -> None:
        """Power it on."""

    async def resize(self) -> None:
        """Resize it until the resize can be confirmed."""

    async def confirm(self) -> None:
        """Confirm the resize."""

    async def snapshot(self) -> None:
        """Save it as an image."""

    async def delete(self) -> None:
        """Delete it."""


class Through:
    """Through this service, over HTTP."""

    def __init__(self, user: User, flavors: list[str]) -> None:
        self._user = user
        self._flavors = flavors
        self._path = ""

    async def create(self) -> None:
        answer = await self._do("POST", "/vms", {"name": "bench", "flavor_id": self._flavors[0]})
        self._path = f"/vms/{answer.json()['id']}"

    async def stop(self) -> None:
        await self._do("POST", f"{self._path}/actions/stop")

    async def start(self) -> None:
        await self._do("POST", f"{self._path}/actions/start")

    async def resize(self) -> None:
        await self._do("POST", f"{self._path}/actions/resize", {"flavor_id": self._flavors[1]})

    async def confirm(self) -> None:
        await self._do("POST", f"{self._path}/actions/confirm-resize")

    async def snapshot(self) -> None:
        self._snapshot = (await self._do("POST", f"{self._path}/snapshots", {"name": "bench"})).json()["id"]

    async def delete(self) -> None:
        await self._do("DELETE", self._path)

    async def clean_up(self) -> None:
        """Delete the snapshot."""
        await self._do("DELETE", f"{self._path}/snapshots/{self._snapshot}")

    async def _do(self, method: str, path: str, body: object = None) -> Any:
        answer = await self._user.request(method, path, json=body)
        if answer.status_code not in {202, 204}:
            raise RuntimeError(answer.text)
        path = operation_path(answer)
        ended = {"SUCCEEDED", "FAILED"}
        operation = await poll(lambda: self._user.read(path), lambda seen: seen["status"] in ended, interval=POLL)
        if operation["status"] != "SUCCEEDED":
            raise RuntimeError(str(operation))
        return answer


class Directly:
    """With openstacksdk, whose waiting polls every `interval` seconds."""

    def __init__(self, member: Connection, flavors: list[str], image: str, network: str, interval: float) -> None:
        self._member = member
        self._flavors = flavors
        self._new = {"name": "bench", "image_id": image, "networks": [{"uuid": network}]}
        self._interval = interval

    async def create(self) -> None:
        self._server = await asyncio.to_thread(self._compute.create_server, flavor_id=self._flavors[0], **self._new)
        await self._wait("ACTIVE")

    async def stop(self) -> None:
        await asyncio.to_thread(self._compute.stop_server, self._server)
        await self._wait("SHUTOFF")

    async def start(self) -> None:
        await asyncio.to_thread(self._compute.start_server, self._server)
        await self._wait("ACTIVE")

    async def resize(self) -> None:
        await asyncio.to_thread(self._compute.resize_server, self._server, self._flavors[1])
        await self._wait("VERIFY_RESIZE")

    async def confirm(self) -> None:
        await asyncio.to_thread(self._compute.confirm_server_resize, self._server)
        await self._wait("ACTIVE")

    async def snapshot(self) -> None:
        image = await asyncio.to_thread(self._compute.create_server_image, self._server, "bench")
        self._image = await asyncio.to_thread(
            resource.wait_for_status, self._member.image, image, "active", ["error"], self._interval, 60
        )

    async def delete(self) -> None:
        await asyncio.to_thread(self._compute.delete_server, self._server)
        await asyncio.to_thread(self._compute.wait_for_delete, self._server, self._interval, 60)

    async def clean_up(self) -> None:
        """Delete the image."""
        await asyncio.to_thread(self._member.image.delete_image, self._image)

    @property
    def _compute(self) -> Any:
        return self._member.compute

    async def _wait(self, status: str) -> None:
        self._server = await asyncio.to_thread(
            self._compute.wait_for_server, self._server, status, interval=self._interval, wait=120
        )


async def measure(stack: Stack, calls: Calls, rounds: int) -> list[str]:
    """Measure all ways in turns and print the table; returns errors."""
    member = await asyncio.to_thread(_connect)
    async with log_in(stack) as user:
        await until_listed(user)
        flavors = (await user.flavors())[:2]
        image, network = [await _default(user, kind) for kind in ("images", "networks")]
        ways: dict[str, Any] = {
            "service": Through(user, flavors),
            "SDK": Directly(member, flavors, image, network, SDK_DEFAULT),
            "SDK, quick": Directly(member, flavors, image, network, POLL),
        }
        seconds: dict[tuple[str, str], list[float]] = {}
        sent: dict[tuple[str, str], list[int]] = {}
        for number in range(rounds + 1):
            order = list(ways)[number % 3 :] + list(ways)[: number % 3]
            for name in order:
                for operation in OPERATIONS:
                    took, requests = await _time(getattr(ways[name], operation), calls)
                    print(f"round {number}, {name}: {operation} {took:.2f} s", file=sys.stderr, flush=True)
                    if number:  # the first round logs in and discovers
                        seconds.setdefault((name, operation), []).append(took)
                        sent.setdefault((name, operation), []).append(requests)
                await ways[name].clean_up()
        calls.clear()
        await asyncio.sleep(IDLE)
        idle = Counter(calls)
    return _print(seconds, sent, idle)


def _connect() -> Connection:
    """Log in and discover the services, in a thread: the proxies need the loop meanwhile."""
    member = logins.connect()
    _ = member.compute, member.image
    return member


async def _time(operate: Callable[[], Awaitable[None]], calls: Calls) -> tuple[float, int]:
    before, began = calls.total(), time.monotonic()
    await operate()
    return time.monotonic() - began, calls.total() - before


def _print(
    seconds: Mapping[tuple[str, str], list[float]], sent: Mapping[tuple[str, str], list[int]], idle: Calls
) -> list[str]:
    rows, errors = [], []
    for operation in OPERATIONS:
        ours, sdk, quick = (statistics.median(seconds[way, operation]) for way in ("service", "SDK", "SDK, quick"))
        counts = [statistics.median(sent[way, operation]) for way in ("service", "SDK", "SDK, quick")]
        rows.append((operation, ours, sdk, ours / sdk, quick, ours - quick, *counts))
        if ours / sdk >= LIMIT:
            errors.append(f"{operation}: {ours / sdk:.2f} times as long as with the SDK")
    columns = ("operation", "service s", "SDK s", "ratio", "SDK, quick s", "service adds s")
    table(*columns, "calls: service", "SDK", "SDK, quick", rows=rows)
    table(f"calls of an idle service in {IDLE:.0f} s", "times", rows=sorted(idle.items()))
    return errors


async def _default(user: User, kind: str) -> str:
    """Return the id of the first image or network; a cloud for benchmarks has one."""
    return str((await user.read(f"/{kind}"))["items"][0]["id"])


def main() -> None:
    """Print the tables."""
    rounds = int((sys.argv[1:] or ["5"])[0])
    exit_with(asyncio.run(with_counted_stack(partial(measure, rounds=rounds))))


if __name__ == "__main__":
    main()
