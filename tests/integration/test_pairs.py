"""Every pair of requests that meet at one resource, on the real stack; `make races` has each fifty times.

What the pairs come to is one row each in docs/architecture.md.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.pairs import PAIRS, Scene
from tests.support.stack import Stack, User, log_in
from tests.support.truth import differences

RACES = int(os.environ.get("RACES", "1"))
pytestmark = pytest.mark.timeout(600 + 30 * RACES)
AT_ONCE = 8
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "architecture.md"
SMALL_NETWORK = "edge"  # a /28: 16 addresses, less its own, its gateway's and the broadcast address


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, whose cloud is quick, but not so quick that nothing meets."""
    delays = {f"MOCK_{verb}_DELAY": "0.3" for verb in ("BUILD", "STOP", "RESIZE", "DELETE", "SNAPSHOT")}
    stack = Stack.at(tmp_path_factory.mktemp("pairs"), **delays)
    stack.start()
    yield stack
    stack.stop()


@asynccontextmanager
async def scene(user: User) -> AsyncIterator[Scene]:
    """A VM to begin with, deleted in the end."""
    vm = await user.create("pair")
    await user.until(vm["id"], "ACTIVE")
    yield Scene(user, vm["id"])
    await user.request("DELETE", f"/vms/{vm['id']}")


async def test_every_pair_ends_as_its_row_says(calm: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in PAIRS}
    track = asyncio.Semaphore(AT_ONCE)
    async with log_in(calm, poll_every=0.2) as user:

        async def run(name: str) -> None:
            async with track, scene(user) as at:
                outcomes[name][await PAIRS[name](at)] += 1

        await asyncio.gather(*(run(name) for _ in range(RACES) for name in PAIRS))
        while (await user.read("/operations?status=QUEUED,RUNNING"))["total"]:  # noqa: ASYNC110 - a poll is all there is
            await asyncio.sleep(0.2)
    assert await differences(calm) == []
    with capsys.disabled():
        lines = [f"{name}: {dict(counted.most_common())}" for name, counted in outcomes.items()]
        sys.stdout.write("\n".join(["", *lines, ""]))


def test_every_pair_has_its_row_in_the_document() -> None:
    rows = [f"| {name} | {(pair.__doc__ or '').splitlines()[0]} |" for name, pair in PAIRS.items()]
    assert "\n".join(["| what meets | what comes of it |", "|---|---|", *rows]) in DOCUMENT.read_text()


async def test_a_small_network_gives_out_exactly_its_addresses_to_64_at_once(calm: Stack) -> None:
    async with log_in(calm, poll_every=0.2) as user:
        network = next(one for one in (await user.read("/networks"))["items"] if one["name"] == SMALL_NETWORK)
        usable = network["free_addresses"]
        assert (network["cidr"], usable) == ("10.2.0.0/28", 13)
        body = {"name": "crowd", "flavor_id": (await user.flavors())[0], "network_ids": [network["id"]]}
        answers = await asyncio.gather(*(user.http.post("/vms", json=body, timeout=60) for _ in range(64)))
        assert Counter(answer.status_code for answer in answers) == {202: usable, 409: 64 - usable}
        assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"no_free_address"}
        vms = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        taken = [one for vm in vms for one in (await user.read(f"/vms/{vm}/interfaces"))["items"]]
        assert {one["ip_address"] for one in taken} == {f"10.2.0.{host}" for host in range(2, 15)}
        assert len({one["mac_address"] for one in taken}) == usable
        assert (await user.read(f"/networks/{network['id']}"))["free_addresses"] == 0
        for vm in vms:
            await user.request("DELETE", f"/vms/{vm}")
        for vm in vms:
            await user.until(vm, "DELETED")
        assert (await user.read(f"/networks/{network['id']}"))["free_addresses"] == usable
    assert await differences(calm) == []
