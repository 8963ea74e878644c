"""A Temporal server behind TLS, with certificates of clients and with an API key: what the settings name is used."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from domain import temporal
from domain.rules.messages import Activity
from domain.rules.states import Action
from domain.settings import Settings
from tests.conftest import make_settings
from tests.support.tls import Authority, Relay, tls_in_front_of
from tests.workflows.world import World

API_KEY = "secret-1"
# How HPACK writes these letters, in bits (RFC 7541, appendix B). HTTP/2 compresses headers with it.
HUFFMAN = {
    "B": "1011101",
    "e": "00101",
    "a": "00011",
    "r": "101100",
    " ": "010100",
    "s": "01000",
    "c": "00100",
    "t": "01001",
    "-": "010110",
    "1": "00001",
}


def compressed(text: str) -> bytes:
    """The text as HPACK writes it: bits up to a whole number of bytes, filled up with ones."""
    bits = "".join(HUFFMAN[letter] for letter in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@dataclass
class Place:
    """A relay that wants certificates of clients, and the settings of a client that has one."""

    relay: Relay
    authority: Authority
    settings: Settings

    def changed(self, **values: object) -> Settings:
        """Settings with other values."""
        return make_settings(**(self.settings.model_dump(exclude_unset=True) | values))


@pytest.fixture
async def place(temporal_environment: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Place]:
    """The dev server behind mutual TLS."""
    authority = Authority(tmp_path / "ours")
    target = temporal_environment.client.service_client.config.target_host
    async with tls_in_front_of(target, authority.identity("server"), authority.file) as relay:
        mine = authority.identity("mine")
        settings = make_settings(
            "postgresql://unused/unused",
            temporal_address=relay.address,
            temporal_tls_server_ca=authority.file,
            temporal_tls_client_cert=mine.certificate,
            temporal_tls_client_key=mine.key,
        )
        yield Place(relay, authority, settings)


async def ask(settings: Settings) -> Client:
    """Connect and describe the namespace."""
    client = await temporal.connect(settings, retry_for=0.1)
    request = DescribeNamespaceRequest(namespace=settings.temporal_namespace)
    await client.workflow_service.describe_namespace(request, timeout=temporal.RPC_TIMEOUT)
    return client


@dataclass
class WorldBehindTLS(World):
    """A world whose client and workers reach the server through this client's connection."""

    through: Client | None = None

    @property
    def client(self) -> Client:
        """The client."""
        assert self.through
        return self.through


async def test_clients_and_workers_reach_a_server_that_wants_their_certificate(
    temporal_environment: WorkflowEnvironment, place: Place
) -> None:
    async with WorldBehindTLS(temporal_environment, through=await ask(place.settings)) as world:
        await (await world.start(Action.STOP)).result()
        assert world.called()[-1] is Activity.FINISH_OPERATION
    assert place.relay.received


async def test_a_client_without_a_certificate_is_refused(place: Place) -> None:
    with pytest.raises(RuntimeError):
        await ask(place.changed(temporal_tls_client_cert=None, temporal_tls_client_key=None))
    assert not place.relay.received


async def test_a_client_with_a_certificate_of_another_authority_is_refused(place: Place, tmp_path: Path) -> None:
    other = Authority(tmp_path / "theirs").identity("other")
    with pytest.raises(RuntimeError):
        await ask(place.changed(temporal_tls_client_cert=other.certificate, temporal_tls_client_key=other.key))
    assert not place.relay.received


async def test_a_server_of_another_authority_gets_nothing(place: Place, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        await ask(place.changed(temporal_tls_server_ca=Authority(tmp_path / "theirs").file))
    assert not place.relay.received


async def test_the_api_key_arrives_with_each_call_and_only_over_tls(place: Place) -> None:
    await ask(place.changed(temporal_api_key=API_KEY))
    assert compressed(f"Bearer {API_KEY}") in place.relay.received
    place.relay.received.clear()
    await ask(place.settings)
    assert place.relay.received
    assert compressed("Bearer ")[:4] not in place.relay.received


async def test_an_api_key_alone_demands_tls(temporal_environment: WorkflowEnvironment) -> None:
    """Else the key would go over the network in plain text."""
    plain = temporal_environment.client.service_client.config.target_host
    with pytest.raises(RuntimeError):
        await ask(make_settings("postgresql://unused/unused", temporal_address=plain, temporal_api_key=API_KEY))
