"""Brings what the cloud offers into the service's catalogue. Runs in every worker, and in one of them at a time."""

import asyncio
import logging
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from activities.backends.catalogue import Catalogue
from activities.backends.protocol import BackendError, ComputeBackend
from domain.data import advisory_locks, catalogue, outages, queries
from domain.data.models import Image, Network
from domain.rules.text import tidy

logger = logging.getLogger(__name__)

INTERVAL: Final = 180.0  # seconds
RETRY_PAUSE: Final = 15.0  # seconds: until the first success there is nothing that one can ask for


class CatalogueReader:
    """Reads the catalogue periodically; an error ends one reading, never the loop."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        self._engine = engine
        self._backend = backend
        self._seen: Catalogue | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Read it now and every INTERVAL until canceled. Return at once if the catalogue is not the cloud's."""
        while True:
            try:
                is_of_cloud = await self.read()
            except Exception as error:  # noqa: BLE001 - the loop must survive every error
                self._log(error)
                await asyncio.sleep(RETRY_PAUSE)
                continue
            if not is_of_cloud:
                return
            self._trouble = ""
            await asyncio.sleep(INTERVAL)

    async def read(self) -> bool:
        """Read the catalogue, unless another worker does it now. Return False if it is not the cloud's."""
        # The lock ends with its transaction, and the transaction with the connection if the worker dies.
        async with self._engine.begin() as tx:
            if not await queries.try_long_lock(tx, advisory_locks.CATALOGUE):
                return True
            offered = await self._backend.list_catalogue()
            if offered is None:
                return False
            await bring_in(tx, offered)
        if offered != self._seen:
            counts = len(offered.flavors), len(offered.images), len(offered.networks)
            logger.info("The cloud offers %d flavors, %d images and %d networks", *counts)
            self._seen = offered
        return True

    def _log(self, error: Exception) -> None:
        """Log an error, but not again every few seconds."""
        if outages.is_outage(error):
            outages.log.failed(error)
            return
        reason = str(error) if isinstance(error, BackendError) else outages.describe(error)
        if reason != self._trouble:
            logger.warning("Could not read what the cloud offers: %s", reason)
        self._trouble = reason


async def bring_in(tx: AsyncConnection, offered: Catalogue) -> None:
    """Replace the catalogue by what the cloud offers. Names are brought into NFC, as those in requests are."""
    flavors = [
        {
            "id": (id := catalogue.flavor_id(flavor.cloud_id)),
            "name": tidy(flavor.name),
            "vcpus": flavor.vcpus,
            "ram_mb": flavor.ram_mb,
            "disk_gb": flavor.disk_gb,
            "cloud_id": None if str(id) == flavor.cloud_id else flavor.cloud_id,
        }
        for flavor in offered.flavors
    ]
    # A default stays one as long as it is offered: a new image or network must not change what VMs get.
    default_image = await catalogue.default_of(tx, Image, [image.id for image in offered.images])
    images = [
        {
            "id": image.id,
            "name": tidy(image.name),
            "os_distro": image.os_distro,
            "os_version": image.os_version,
            "size_gb": image.size_gb,
            "is_default": image.id == default_image,
        }
        for image in offered.images
    ]
    default_network = await catalogue.default_of(tx, Network, [network.id for network in offered.networks])
    networks = [
        {
            "id": network.id,
            "name": tidy(network.name),
            "cidr": network.cidr,
            "gateway": network.gateway,
            "is_default": network.id == default_network,
            "allocates": False,
        }
        for network in offered.networks
    ]
    groups = [{"id": group.id, "name": group.name, "description": group.description} for group in offered.groups]
    zones = [{"id": catalogue.zone_id(name), "name": name} for name in offered.zones]
    await catalogue.replace(tx, flavors, images, networks, groups, zones)
