"""Every pair of concurrent requests to one resource, on a real stack; `make races` runs each pair fifty times.

Each pair has a row in docs/architecture.md.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.vm_owner import VMOwner
from tests.races.pairs import PAIRS
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import User, log_in

RACES = int(os.environ.get("RACES", "1"))
pytestmark = pytest.mark.timeout(600 + 30 * RACES)
CONCURRENT = 8
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "architecture.md"
SMALL_NETWORK = "edge"  # a /28: 16 addresses minus those of the network, the gateway and broadcast


@pytest.fixture(scope="module")
def pairs_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a fast cloud, but slow enough that the requests of a pair overlap."""
    delays = {f"MOCK_{verb}_DELAY": "0.3" for verb in ("BUILD", "STOP", "RESIZE", "DELETE", "SNAPSHOT")}
    stack = Stack.at(tmp_path_factory.mktemp("pairs"), **delays)
    stack.start()
    yield stack
    stack.stop()


@asynccontextmanager
async def vm_owner(user: User) -> AsyncIterator[VMOwner]:
    """The owner of a new VM, which is deleted at the end."""
    owner = await VMOwner.with_new_vm(user, "pair")
    yield owner
    await user.request("DELETE", owner.path)


async def test_every_pair_has_a_documented_outcome(pairs_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in PAIRS}
    slots = asyncio.Semaphore(CONCURRENT)
    async with log_in(pairs_stack, poll_every=0.2) as user:

        async def run(name: str) -> None:
            async with slots, vm_owner(user) as owner:
                outcomes[name][await PAIRS[name](owner)] += 1

        await asyncio.gather(*(run(name) for _ in range(RACES) for name in PAIRS))
        await user.until_nothing_open()
    assert await differences(pairs_stack) == []
    with capsys.disabled():
        lines = [f"{name}: {dict(counted.most_common())}" for name, counted in outcomes.items()]
        sys.stdout.write("\n".join(["", *lines, ""]))


def test_every_pair_has_a_row_in_the_document() -> None:
    rows = [f"| {name} | {(pair.__doc__ or '').splitlines()[0]} |" for name, pair in PAIRS.items()]
    assert "\n".join(["| concurrent requests | outcome |", "|---|---|", *rows]) in DOCUMENT.read_text()


async def test_64_concurrent_creates_get_exactly_the_addresses_of_a_small_network(pairs_stack: Stack) -> None:
    async with log_in(pairs_stack, poll_every=0.2) as user:
        network = next(item for item in (await user.read("/networks"))["items"] if item["name"] == SMALL_NETWORK)
        usable = network["free_addresses"]
        assert (network["cidr"], usable) == ("10.2.0.0/28", 13)
        body = {"name": "crowd", "flavor_id": (await user.flavors())[0], "network_ids": [network["id"]]}
        answers = await asyncio.gather(*(user.http.post("/vms", json=body, timeout=60) for _ in range(64)))
        assert Counter(answer.status_code for answer in answers) == {202: usable, 409: 64 - usable}
        assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"no_free_address"}
        vms = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        interfaces = [interface for vm in vms for interface in (await user.read(f"/vms/{vm}/interfaces"))["items"]]
        assert {interface["ip_address"] for interface in interfaces} == {f"10.2.0.{host}" for host in range(2, 15)}
        assert len({interface["mac_address"] for interface in interfaces}) == usable
        assert (await user.read(f"/networks/{network['id']}"))["free_addresses"] == 0
        for vm in vms:
            await user.request("DELETE", f"/vms/{vm}")
        for vm in vms:
            await user.until(vm, "DELETED")
        assert (await user.read(f"/networks/{network['id']}"))["free_addresses"] == usable
    assert await differences(pairs_stack) == []
