"""TLS to the cloud: the options of clouds.yaml count, and a failure says why and is clear: nothing was sent."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from keystoneauth1 import exceptions as keystone
from keystoneauth1.session import Session

from activities.backends.openstack import answers
from activities.backends.openstack.configuration import read_configuration
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.errors import CloudError, Lost, Service
from tests.backends.openstack.cloud_server import CloudServer, running_cloud
from tests.backends.openstack.conftest import Configure


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        *subject,
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The certificates of the server and of its client."""
    folder = tmp_path_factory.mktemp("tls")
    return {name: make_certificate(folder, name) for name in ("server", "client")}


@pytest.fixture
def server(certificates: dict[str, tuple[Path, Path]]) -> Iterator[CloudServer]:
    """A small cloud that asks its clients for a certificate, and takes those that have one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates["server"])
    context.load_verify_locations(certificates["client"][0])
    context.verify_mode = ssl.CERT_REQUIRED
    with running_cloud(context) as server:
        yield server


async def test_the_options_of_clouds_yaml_count(
    configure: Configure, certificates: dict[str, tuple[Path, Path]]
) -> None:
    (cacert, _), (cert, key) = certificates["server"], certificates["client"]
    client = {"cert": str(cert), "key": str(key)}
    for options in ({"cacert": str(cacert)}, {"verify": False}):
        configure(**options, **client)
        cloud = Cloud(read_configuration())
        await cloud.get(Service.COMPUTE, "/servers")
        cloud.close()


async def handshake_error(configure: Configure, **options: str) -> CloudError:
    """The error of a request with these options."""
    configure(**options)
    cloud = Cloud(read_configuration())
    with pytest.raises(CloudError) as caught:
        await cloud.get(Service.COMPUTE, "/servers")
    cloud.close()
    return caught.value


async def test_a_failed_handshake_says_why_and_is_clear(
    configure: Configure, server: CloudServer, certificates: dict[str, tuple[Path, Path]]
) -> None:
    cert, key = certificates["client"]
    distrust = await handshake_error(configure, cert=str(cert), key=str(key))
    assert "The cloud's identity service cannot be reached:" in str(distrust)
    assert "certificate verify failed" in str(distrust)
    refused = await handshake_error(configure, cacert=str(certificates["server"][0]))
    for error in (distrust, refused):
        assert (error.code, error.retryable, error.ambiguous) == ("cloud_unavailable", True, False)
    assert server.received == []


def test_a_server_without_tls_is_clear() -> None:
    with running_cloud() as server, pytest.raises(keystone.SSLError) as caught:
        Session().request(server.url.replace("http:", "https:"), "POST", timeout=3)
    assert answers.how_it_was_lost(caught.value) is Lost.UNREACHABLE


def test_a_name_that_does_not_exist_is_clear() -> None:
    with pytest.raises(keystone.ConnectFailure) as caught:
        Session().request("http://no-such-host.invalid/", "POST", timeout=3)
    assert answers.how_it_was_lost(caught.value) is Lost.UNREACHABLE
