"""The configuration of the cloud: as for every OpenStack tool, and refused in one line if it cannot be used."""

import logging
from pathlib import Path

import pytest

from activities.backends.openstack.configuration import read_configuration
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.errors import CloudError, Service, name_of
from activities.backends.protocol import UnusableCloudError
from tests.backends.openstack.cloud_server import PASSWORD, CloudServer, Reply
from tests.backends.openstack.conftest import Configure


def refusal() -> str:
    """Why the configuration cannot be used."""
    with pytest.raises(UnusableCloudError) as caught:
        read_configuration()
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def refusal_of_cloud() -> str:
    """Why the configured cloud cannot be used."""
    cloud = Cloud(read_configuration())
    with pytest.raises(UnusableCloudError) as caught:
        await cloud.prepare()
    cloud.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_cloud_that_is_new_enough_is_ready(cloud: Cloud, server: CloudServer) -> None:
    server.microversions = {Service.COMPUTE: "2.95", Service.VOLUME: "3.70"}
    await cloud.prepare()
    assert len(server.logins) == 1


@pytest.mark.parametrize(
    ("service", "newest", "needed"), [(Service.COMPUTE, "2.79", "2.95"), (Service.VOLUME, "3.9", "3.70")]
)
async def test_a_cloud_that_is_too_old_is_refused_in_one_line(
    configure: Configure, server: CloudServer, service: Service, newest: str, needed: str
) -> None:
    configure()
    server.microversions[service] = newest
    assert await refusal_of_cloud() == (
        f"the newest microversion of the cloud's {name_of(service)} service is {newest}, "
        f"and {needed} is needed (OpenStack 2023.1 or newer)"
    )


@pytest.mark.parametrize("service", [Service.COMPUTE, Service.VOLUME, Service.NETWORK, Service.IMAGE])
async def test_a_cloud_without_a_service_is_refused_in_one_line(
    configure: Configure, server: CloudServer, service: Service
) -> None:
    configure()
    server.missing.add(service)
    assert await refusal_of_cloud() == f"the cloud has no {name_of(service)} service that this login may use"


async def test_a_cloud_that_is_away_is_no_reason_to_end(
    configure: Configure, server: CloudServer, caplog: pytest.LogCaptureFixture
) -> None:
    configure()
    server.login_replies.append(Reply(503))
    cloud = Cloud(read_configuration())
    await cloud.prepare()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("The cloud is not available yet, work waits for it: The cloud's identity service failed.")
    await cloud.get(Service.COMPUTE, "/servers")
    cloud.close()


async def test_a_wrong_password_is_reported_without_it(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    configure(password="not-" + PASSWORD)
    caplog.set_level(logging.DEBUG)
    cloud = Cloud(read_configuration())
    await cloud.prepare()
    with pytest.raises(CloudError) as caught:
        await cloud.get(Service.COMPUTE, "/servers")
    cloud.close()
    assert caught.value.code == "cloud_auth_failed"
    assert "Authentication required." in str(caught.value)
    assert PASSWORD not in caplog.text + str(caught.value)


async def test_the_variables_of_the_environment_name_a_cloud_too(
    configure: Configure, server: CloudServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure().unlink()
    monkeypatch.delenv("OS_CLOUD")
    login = {"AUTH_URL": f"{server.url}/identity/v3", "USERNAME": "alice", "PASSWORD": PASSWORD, "PROJECT_NAME": "demo"}
    domains = {"USER_DOMAIN_ID": "default", "PROJECT_DOMAIN_ID": "default", "REGION_NAME": "one"}
    for name, value in (login | domains).items():
        monkeypatch.setenv(f"OS_{name}", value)
    cloud = Cloud(read_configuration())
    await cloud.get(Service.COMPUTE, "/servers")
    cloud.close()


def test_no_cloud_at_all_is_refused(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure().unlink()
    wanted = "no OpenStack cloud is configured; set OS_CLOUD to a cloud of clouds.yaml, or set the OS_* variables"
    assert refusal() == wanted
    monkeypatch.delenv("OS_CLOUD")
    assert refusal() == wanted


def test_a_cloud_that_clouds_yaml_lacks_is_refused(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure()
    monkeypatch.setenv("OS_CLOUD", "large")
    assert refusal() == "Cloud large was not found"


def test_a_file_that_is_not_yaml_is_refused_without_a_part_of_it(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    file = configure()
    file.write_text(f"clouds:\n  small:\n    auth:\n      password: *{PASSWORD}\n")
    assert refusal() == f"{file} is not valid YAML"
    assert PASSWORD not in caplog.text


def test_a_login_without_an_address_is_refused(configure: Configure) -> None:
    configure(auth={"username": "alice", "password": PASSWORD})
    message = refusal()
    assert "auth_url" in message
    assert PASSWORD not in message


def test_a_value_that_is_no_number_is_refused(configure: Configure) -> None:
    configure(api_timeout="soon")
    assert refusal() == "a value of the cloud's configuration is wrong (ValueError)"


@pytest.mark.parametrize(
    "cache", [{"expiration_time": 60}, {"class": "dogpile.cache.memory"}, {"expiration": {"server": 5}}]
)
def test_a_cache_of_answers_is_refused(configure: Configure, cache: dict[str, object]) -> None:
    configure(sections={"cache": cache})
    assert refusal() == "clouds.yaml has a `cache:` of answers; remove it, or old states pass for new ones"


@pytest.mark.parametrize(
    "settings", [{"cacert": "gone.pem"}, {"cert": "gone.pem"}, {"cert": "ok.pem", "key": "gone.pem"}]
)
def test_a_tls_file_that_is_missing_is_refused(configure: Configure, tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "ok.pem").touch()
    configure(**{name: str(tmp_path / value) for name, value in settings.items()})
    assert refusal() == f"the TLS file {tmp_path / 'gone.pem'} of the cloud's configuration does not exist"
