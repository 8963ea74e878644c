"""The cloud under test: the mock, or with `--openstack` the one that OS_CLOUD names."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from activities.backends.catalogue import FlavorOffer
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.placement import DEFAULT_GROUP, ZONE
from activities.backends.resources import Ref, ServerSpec
from domain.settings import Settings
from migrations import embedded_postgres
from tests.activities.cloud import BUILD_IMAGE_ID
from tests.backends.contract.lab import NAME, Lab
from tests.conftest import make_settings
from tests.support.rows import FLAVOR_IDS, NETWORK_IDS

MOCK_DELAY = 0.3  # seconds: long enough for a call that comes while the cloud is busy
GIANT_RAM = 1 << 29  # MiB


@pytest.fixture(scope="session")
async def lab_settings(postgres: Path, superuser: asyncpg.Connection) -> AsyncIterator[Settings]:
    """Settings with an empty database for the whole session."""
    name = f"contract_{uuid4().hex}"
    await superuser.execute(f"CREATE DATABASE {name}")
    delays = {f"mock_{verb}_delay": MOCK_DELAY for verb in ("build", "resize", "reboot", "snapshot")}
    yield make_settings(embedded_postgres.database_url(postgres, name), **delays)
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
async def lab(lab_settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """The cloud under test."""
    opened = _real_lab if request.config.getoption("--openstack") else _mock_lab
    async for lab in opened(lab_settings):
        yield lab


async def _mock_lab(settings: Settings) -> AsyncIterator[Lab]:
    backend = MockBackend(settings)
    await backend.prepare()
    image = Ref(BUILD_IMAGE_ID, str(BUILD_IMAGE_ID))
    vm = Ref(uuid4())
    small = ServerSpec(vm, NAME, Ref(FLAVOR_IDS["m1.small"]), 1, 2048, 20, image)
    large = ServerSpec(vm, NAME, Ref(FLAVOR_IDS["m1.medium"]), 2, 4096, 40, image)
    giant = ServerSpec(vm, NAME, Ref(uuid4()), 1, GIANT_RAM, 1, image)
    addresses, place = ["10.0.0.77", "10.0.0.78"], (DEFAULT_GROUP, ZONE)
    lab = Lab(backend, small, large, giant, NETWORK_IDS["private"], addresses, *place, 0.05)
    yield lab
    await lab.clear()
    await backend.close()


async def _real_lab(settings: Settings) -> AsyncIterator[Lab]:
    # Only here, because the mock needs none of it.
    from activities.backends.openstack.backend import OpenStackBackend  # noqa: PLC0415
    from activities.backends.openstack.errors import Service  # noqa: PLC0415

    backend = OpenStackBackend(settings)
    await backend.prepare()
    catalogue = await backend.list_catalogue()
    image = catalogue.images[0]
    sizes = sorted(catalogue.flavors, key=lambda flavor: (flavor.ram_mb, flavor.disk_gb))
    small, large = [flavor for flavor in sizes if flavor.disk_gb >= image.size_gb][:2]

    def spec(flavor: FlavorOffer) -> ServerSpec:
        size = (flavor.vcpus, flavor.ram_mb, flavor.disk_gb)
        return ServerSpec(Ref(uuid4()), NAME, Ref(uuid4(), flavor.cloud_id), *size, Ref(image.id, str(image.id)))

    # A member may choose addresses only in a network of its own.
    send, network = partial(backend._cloud.request, Service.NETWORK), {"network": {"name": NAME}}
    network_id = send("POST", "/networks", body=network, read=lambda body: body["network"]["id"]).value
    send("POST", "/subnets", body={"subnet": {"network_id": network_id, "ip_version": 4, "cidr": "10.77.0.0/24"}})
    addresses, place = ["10.77.0.77", "10.77.0.78"], (str(catalogue.groups[0].id), catalogue.zones[0])
    lab = Lab(backend, spec(small), spec(large), spec(sizes[-1]), UUID(network_id), addresses, *place, 0.3)
    try:
        yield lab
        await lab.clear()
    finally:
        send("DELETE", f"/networks/{network_id}")
        await backend.close()
