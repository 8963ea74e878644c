"""What the cloud offers becomes the catalogue, and what it no longer offers leaves it without being forgotten."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities import catalogue as module
from activities.backends.catalogue import Catalogue, FlavorOffer, ImageOffer, NetworkOffer, SecurityGroupOffer
from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import BackendError, ComputeBackend
from activities.catalogue import CatalogueReader
from activities.compute import ComputeActivities
from domain.data import advisory_locks, catalogue
from domain.data.models import VM, Flavor, Image, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from tests.support.rows import FLAVOR_IDS, add_user, add_vm
from tests.support.waiting import poll

SMALL = FlavorOffer(str(uuid4()), "small", 1, 2048, 20)
NUMBERED = FlavorOffer("42", "numbered", 2, 4096, 40)
DEBIAN = ImageOffer(uuid4(), "debian", 2, "debian", "13")
PLAIN = ImageOffer(uuid4(), "plain", 1, None, None)
PRIVATE = NetworkOffer(uuid4(), "private", "10.11.0.0/16", "10.11.0.1")
BARE = NetworkOffer(uuid4(), "bare", "2001:db8::/64", None)
GROUP = SecurityGroupOffer(uuid4(), "web", "From everywhere.")
OFFERED = Catalogue([SMALL, NUMBERED], [DEBIAN, PLAIN], [PRIVATE, BARE], [GROUP], ["north", "south"])


class Offering:
    """A cloud that only offers a catalogue, and raises the errors in `failures` first."""

    def __init__(self, offered: Catalogue) -> None:
        self.offered = offered
        self.failures: list[Exception] = []
        self.asked = 0

    async def list_catalogue(self) -> Catalogue:
        """Return the catalogue."""
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.offered


@pytest.fixture
def cloud() -> Offering:
    return Offering(OFFERED)


@pytest.fixture
def reader(engine: AsyncEngine, cloud: Offering) -> CatalogueReader:
    return CatalogueReader(engine, cast("ComputeBackend", cloud))


async def rows(engine: AsyncEngine, model: type[Any]) -> list[dict[str, Any]]:
    """The rows that one can ask for."""
    async with engine.connect() as connection:
        found = await connection.execute(select(model.__table__).where(model.is_available).order_by(model.name))
        return [{name: row[name] for name in row if name != "withdrawn_at"} for row in found.mappings()]


async def names(engine: AsyncEngine, model: type[Any]) -> list[str]:
    return [row["name"] for row in await rows(engine, model)]


async def test_names_have_the_form_in_which_requests_ask_for_them(
    engine: AsyncEngine, cloud: Offering, reader: CatalogueReader
) -> None:
    decomposed = "Cafe\u0301"
    cloud.offered = Catalogue(
        [replace(SMALL, name=decomposed)], [replace(PLAIN, name=decomposed)], [replace(BARE, name=decomposed)]
    )
    await reader.read()
    assert [await names(engine, model) for model in (Flavor, Image, Network)] == [["Caf\u00e9"]] * 3


async def default(engine: AsyncEngine, model: type[Any]) -> list[str]:
    """The names of the defaults, also of those that one can no longer ask for."""
    async with engine.connect() as connection:
        return list(await connection.scalars(select(model.name).where(model.is_default)))


async def versions(engine: AsyncEngine) -> list[str]:
    """The transactions that wrote the rows last."""
    statement = "SELECT xmin::text FROM {} ORDER BY id"
    async with engine.connect() as connection:
        tables = ("flavors", "images", "networks", "security_groups", "availability_zones")
        return [x for table in tables for x in await connection.scalars(text(statement.format(table)))]


async def test_the_catalogue_becomes_the_clouds_and_nothing_of_the_mocks_is_left_in_it(
    engine: AsyncEngine, reader: CatalogueReader
) -> None:
    assert await reader.read()
    assert await rows(engine, Flavor) == [
        {
            "id": catalogue.flavor_id("42"),
            "name": "numbered",
            "vcpus": 2,
            "ram_mb": 4096,
            "disk_gb": 40,
            "cloud_id": "42",
            "is_available": True,
        },
        {
            "id": UUID(SMALL.cloud_id),
            "name": "small",
            "vcpus": 1,
            "ram_mb": 2048,
            "disk_gb": 20,
            "cloud_id": None,
            "is_available": True,
        },
    ]
    debian = {"id": DEBIAN.id, "name": "debian", "size_gb": 2, "os_distro": "debian", "os_version": "13"}
    plain = {"id": PLAIN.id, "name": "plain", "size_gb": 1, "os_distro": None, "os_version": None}
    assert await rows(engine, Image) == [
        debian | {"is_default": True, "is_available": True},
        plain | {"is_default": False, "is_available": True},
    ]
    bare = {"id": BARE.id, "name": "bare", "cidr": "2001:db8::/64", "gateway": None, "is_default": False}
    private = {"id": PRIVATE.id, "name": "private", "cidr": "10.11.0.0/16", "gateway": "10.11.0.1", "is_default": True}
    assert await rows(engine, Network) == [row | {"allocates": False, "is_available": True} for row in (bare, private)]
    group = {"id": GROUP.id, "name": "web", "description": "From everywhere.", "is_available": True}
    assert await rows(engine, SecurityGroup) == [group]
    assert await names(engine, AvailabilityZone) == ["north", "south"]


async def test_what_is_no_longer_offered_leaves_the_catalogue_and_comes_back_with_its_changes(
    engine: AsyncEngine, cloud: Offering, reader: CatalogueReader
) -> None:
    await reader.read()
    cloud.offered = Catalogue([SMALL], [PLAIN], [BARE])
    await reader.read()
    found = [await names(engine, model) for model in (Flavor, Image, Network)]
    assert found == [["small"], ["plain"], ["bare"]]
    async with engine.connect() as connection:
        assert await connection.scalar(select(Flavor.name).where(Flavor.id == catalogue.flavor_id("42"))) == "numbered"
    renamed = replace(DEBIAN, name="trixie")
    cloud.offered = Catalogue([SMALL, NUMBERED], [PLAIN, renamed], [BARE, PRIVATE])
    await reader.read()
    found = [await names(engine, model) for model in (Flavor, Image, Network)]
    assert found == [["numbered", "small"], ["plain", "trixie"], ["bare", "private"]]


async def test_everything_may_go_away(engine: AsyncEngine, cloud: Offering, reader: CatalogueReader) -> None:
    await reader.read()
    cloud.offered = Catalogue([], [], [])
    await reader.read()
    models = (Flavor, Image, Network, SecurityGroup, AvailabilityZone)
    assert [await rows(engine, model) for model in models] == [[]] * 5
    assert [await default(engine, model) for model in (Image, Network)] == [[], []]


async def test_things_with_the_same_name_are_different_things(
    engine: AsyncEngine, cloud: Offering, reader: CatalogueReader
) -> None:
    twins = [replace(PLAIN, id=uuid4()), replace(PLAIN, id=uuid4())]
    cloud.offered = replace(OFFERED, images=twins, networks=[PRIVATE, replace(BARE, name="private")])
    await reader.read()
    assert await names(engine, Image) == ["plain", "plain"]
    assert await names(engine, Network) == ["private", "private"]


async def test_a_default_stays_one_until_it_is_gone(
    engine: AsyncEngine, cloud: Offering, reader: CatalogueReader
) -> None:
    await reader.read()
    cloud.offered = replace(OFFERED, images=[PLAIN, DEBIAN], networks=[BARE, PRIVATE])
    await reader.read()
    assert [await default(engine, model) for model in (Image, Network)] == [["debian"], ["private"]]
    cloud.offered = replace(OFFERED, images=[PLAIN], networks=[BARE])
    await reader.read()
    assert [await default(engine, model) for model in (Image, Network)] == [["plain"], ["bare"]]
    cloud.offered = OFFERED
    await reader.read()
    assert [await default(engine, model) for model in (Image, Network)] == [["plain"], ["bare"]]


async def test_what_has_not_changed_is_not_written(engine: AsyncEngine, reader: CatalogueReader) -> None:
    await reader.read()
    before = await versions(engine)
    await reader.read()
    assert await versions(engine) == before


async def test_the_mocks_catalogue_comes_back_when_it_is_seeded_again(
    engine: AsyncEngine, reader: CatalogueReader
) -> None:
    """As after a start with another COMPUTE_BACKEND."""
    models = (Flavor, Image, Network, SecurityGroup, AvailabilityZone)
    before = [await rows(engine, model) for model in models]
    await reader.read()
    async with engine.begin() as tx:
        await catalogue.seed(tx)
    assert [await rows(engine, model) for model in models] == before


async def test_thousands_of_images_fit(engine: AsyncEngine, cloud: Offering, reader: CatalogueReader) -> None:
    cloud.offered = replace(OFFERED, images=[replace(PLAIN, id=uuid4()) for _ in range(6000)])
    await reader.read()
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).where(Image.is_available)) == 6000


async def test_a_failure_leaves_the_catalogue_as_it_was(
    engine: AsyncEngine, cloud: Offering, reader: CatalogueReader
) -> None:
    await reader.read()
    cloud.offered, cloud.failures = Catalogue([], [], []), [BackendError("cloud_timeout", "Away.", retryable=True)]
    with pytest.raises(BackendError):
        await reader.read()
    assert await names(engine, Flavor) == ["numbered", "small"]


async def test_only_one_worker_reads_at_a_time(engine: AsyncEngine, cloud: Offering, reader: CatalogueReader) -> None:
    async with engine.begin() as other:
        await other.execute(select(func.pg_advisory_xact_lock(advisory_locks.CATALOGUE)))
        assert await reader.read()
        assert cloud.asked == 0
    await reader.read()
    assert cloud.asked == 1


async def run_until(reader: CatalogueReader, condition: Callable[[], Awaitable[bool]]) -> None:
    """Run the loop until the condition holds."""
    loop = asyncio.create_task(reader.run())
    try:
        await poll(condition, bool, interval=0.01)
    finally:
        loop.cancel()


async def test_the_loop_survives_every_error_and_says_each_reason_once(
    engine: AsyncEngine,
    cloud: Offering,
    reader: CatalogueReader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def is_read() -> bool:
        return await names(engine, Flavor) == ["numbered", "small"]

    monkeypatch.setattr(module, "RETRY_PAUSE", 0.001)
    away = [BackendError("cloud_timeout", "The cloud is away.", retryable=True) for _ in range(3)]
    cloud.failures = [*away, KeyError("bug"), away[0]]
    with caplog.at_level(logging.INFO, logger=module.logger.name):
        await run_until(reader, is_read)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    reasons = ["The cloud is away.", "KeyError: 'bug'", "The cloud is away."]
    assert warnings == [f"Could not read what the cloud offers: {reason}" for reason in reasons]


async def test_the_loop_reads_again_and_again(
    cloud: Offering, reader: CatalogueReader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def is_read_again() -> bool:
        return cloud.asked > 3

    monkeypatch.setattr(module, "INTERVAL", 0.001)
    with caplog.at_level(logging.INFO, logger=module.logger.name):
        await run_until(reader, is_read_again)
    lines = [record.message for record in caplog.records]
    assert lines == ["The cloud offers 2 flavors, 2 images and 2 networks"], "only what changed is worth a line"


async def test_with_the_mock_cloud_the_loop_ends_and_changes_nothing(engine: AsyncEngine, backend: MockBackend) -> None:
    before = await versions(engine)
    await CatalogueReader(engine, backend).run()
    assert await versions(engine) == before


async def test_a_server_gets_the_clouds_id_of_its_flavor(
    engine: AsyncEngine, compute: ComputeActivities, reader: CatalogueReader
) -> None:
    await reader.read()
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        await tx.execute(update(VM).values(image_id=DEBIAN.id))
    for flavor, cloud_id in ((SMALL, SMALL.cloud_id), (NUMBERED, "42")):
        spec = await compute._server_spec(vm, catalogue.flavor_id(flavor.cloud_id))
        assert (spec.flavor.cloud_id, spec.vcpus, spec.ram_mb) == (cloud_id, flavor.vcpus, flavor.ram_mb)
    assert (await compute._server_spec(vm, FLAVOR_IDS["m1.tiny"])).flavor.cloud_id == str(FLAVOR_IDS["m1.tiny"])


@pytest.mark.parametrize(
    "cloud_id", ["1", "m1.small", "AUTO", "24BD571F-3D86-44F0-B110-D80DA4925B5B", "24bd571f3d8644f0b110d80da4925b5b"]
)
def test_an_id_that_is_no_plain_uuid_always_gives_the_same_id_of_ours(cloud_id: str) -> None:
    id = catalogue.flavor_id(cloud_id)
    assert id == catalogue.flavor_id(cloud_id)
    assert id.version == 5
    assert str(id) != cloud_id.lower()
