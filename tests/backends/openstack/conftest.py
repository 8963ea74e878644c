"""Fixtures of the OpenStack backend: a small cloud, its clouds.yaml, and what the backend has for it."""

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openstack.config import loader

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.calls import Calls
from activities.backends.openstack.configuration import read_configuration
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.ledger import Ledger
from activities.backends.openstack.watcher import Watcher
from domain.settings import Settings
from tests.backends.openstack.clocks import FakeClock
from tests.backends.openstack.cloud_server import PASSWORD, CloudServer, running_cloud
from tests.backends.openstack.resource_cloud import ResourceCloud

Configure = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[CloudServer]:
    """A small cloud."""
    with running_cloud() as server:
        yield server


@pytest.fixture
def configure(server: CloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Writes a clouds.yaml with the cloud `small`; keywords are more settings of the cloud, or other sections."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    for files in ("CONFIG_FILES", "SECURE_FILES", "VENDOR_FILES"):
        monkeypatch.setattr(loader, files, [])  # those of the machine

    def write(*, password: str = PASSWORD, sections: dict[str, Any] | None = None, **settings: Any) -> Path:
        login = {"auth_url": f"{server.url}/identity/v3", "username": "alice", "password": password}
        scope = {"project_name": "demo", "user_domain_id": "default", "project_domain_id": "default"}
        cloud = {"auth": login | scope, "region_name": "one", **settings}
        file = tmp_path / "clouds.yaml"
        file.write_text(json.dumps({"clouds": {"small": cloud}, **(sections or {})}))  # JSON is YAML
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
        monkeypatch.setenv("OS_CLOUD", "small")
        return file

    return write


@pytest.fixture
def cloud(configure: Configure) -> Iterator[Cloud]:
    """The connection to the cloud."""
    configure()
    cloud = Cloud(read_configuration())
    yield cloud
    cloud.close()


@pytest.fixture
async def ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """The ledger, in a fresh database."""
    ledger = Ledger(settings)
    await ledger.prepare()
    yield ledger
    await ledger.close()


@pytest.fixture
async def calls(cloud: Cloud, ledger: Ledger) -> AsyncIterator[Calls]:
    """The guarded path to the cloud."""
    calls = Calls(cloud, ledger)
    yield calls
    await calls.close()


@pytest.fixture
def resources(server: CloudServer) -> ResourceCloud:
    """The things that the small cloud has."""
    return ResourceCloud(server)


@pytest.fixture
async def backend(
    configure: Configure, resources: ResourceCloud, settings: Settings
) -> AsyncIterator[OpenStackBackend]:
    """The backend of a cloud that has things; its polls take no time."""
    del resources
    configure()
    backend = OpenStackBackend(settings)
    backend._watcher = Watcher(backend._fetch, FakeClock())
    await backend.prepare()
    yield backend
    await backend.close()
