"""Which flavor a server has: the one that the cloud tells, or else one of the server's size."""

from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.resources import Server
from activities.steps import find_flavor
from domain.rules.cloud import ServerStatus
from tests.activities.cloud import server_spec
from tests.support.rows import FLAVOR_IDS, add_user, add_vm

SMALL = (1, 2048, 20)
OTHER = (1, 2048, 21)


@pytest.mark.parametrize(
    ("told", "size", "expected"),
    [
        (None, SMALL, True),
        (None, OTHER, False),
        ("m1.small", SMALL, True),
        ("m1.small", OTHER, True),
        ("m1.medium", SMALL, False),
    ],
)
def test_the_flavor_that_the_cloud_tells_decides_before_the_size(
    told: str | None,
    size: tuple[int, int, int],
    expected: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    server = Server(uuid4(), ServerStatus.ACTIVE, *size, flavor_id=FLAVOR_IDS[told] if told else None)
    assert server.has_size_of(server_spec(server.vm_id)) is expected


async def test_a_flavor_is_found_by_what_the_cloud_tells_and_only_in_the_catalogue(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        for told in (None, FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.large"]):
            server = Server(vm.id, ServerStatus.ACTIVE, *SMALL, flavor_id=told)
            assert await find_flavor(tx, vm.id, server) == (told or FLAVOR_IDS["m1.small"])
        for unknown in ({"flavor_id": uuid4()}, {"disk_gb": 21}):
            values = {"vcpus": 1, "ram_mb": 2048, "disk_gb": 20} | unknown
            assert await find_flavor(tx, vm.id, Server(vm.id, ServerStatus.ACTIVE, **values)) is None
