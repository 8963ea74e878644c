"""The connection to a cloud: what it sends and how often, logins, timeouts, threads, and secrets."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from activities.backends.openstack import connection
from activities.backends.openstack.configuration import read_configuration
from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.errors import CloudError, Service
from tests.backends.openstack.cloud_server import HTML, PASSWORD, PREFIXES, REQUEST_ID, CloudServer, Reply
from tests.backends.openstack.conftest import Configure


def failed(
    cloud: Cloud, method: str = "POST", path: str = "/servers", service: Service = Service.COMPUTE
) -> CloudError:
    """Send a request that must fail, and return its error."""
    with pytest.raises(CloudError) as caught:
        cloud.request(service, method, path, body={"name": "x"} if method == "POST" else None)
    return caught.value


async def test_an_answer_is_returned_with_the_id_of_its_request(cloud: Cloud, server: CloudServer) -> None:
    server.add(Service.COMPUTE, "GET", "/servers/detail", Reply(200, {"servers": [1]}))
    answer = await cloud.get(Service.COMPUTE, "/servers/detail", (("tags", "vm:1"),))
    assert (answer.value, answer.request_id) == ({"servers": [1]}, REQUEST_ID)


async def test_what_postgresql_cannot_keep_or_a_reader_cannot_see_is_left_out(
    cloud: Cloud, server: CloudServer
) -> None:
    row = {"id": 1, "na\0me": "de\0bian", "parts": ["a\0", r"\u0000"]}
    server.add(Service.COMPUTE, "GET", "/things", Reply(200, row))
    kept = {"id": 1, "name": "debian", "parts": ["a", r"\u0000"]}
    assert (await cloud.get(Service.COMPUTE, "/things", ())).value == kept
    server.add(Service.COMPUTE, "POST", "/things", Reply(400, {"badRequest": {"message": "No\0pe: \x1b[2J \u202ex"}}))
    server.add(Service.COMPUTE, "POST", "/things", Reply(400, "No\0, nothing", {"Content-Type": "text/plain"}))
    assert "Nope: [2J x (" in str(failed(cloud, path="/things"))
    assert "No , nothing (" in str(failed(cloud, path="/things"))


@pytest.mark.parametrize(
    ("service", "header"),
    [
        (Service.COMPUTE, "compute 2.95"),
        (Service.VOLUME, "volume 3.70"),
        (Service.NETWORK, None),
        (Service.IMAGE, None),
    ],
)
def test_the_microversion_is_sent_explicitly(
    cloud: Cloud, server: CloudServer, service: Service, header: str | None
) -> None:
    cloud.request(service, "GET", "/things")
    assert server.seen("GET", "/things")[0].headers.get("OpenStack-API-Version") == header


@pytest.mark.parametrize("service", [Service.COMPUTE, Service.VOLUME, Service.NETWORK, Service.IMAGE])
def test_a_post_whose_connection_is_cut_is_seen_once(cloud: Cloud, server: CloudServer, service: Service) -> None:
    server.add(service, "POST", "/things", Reply(is_cut=True))
    error = failed(cloud, path="/things", service=service)
    assert (error.code, error.retryable, error.ambiguous) == ("cloud_timeout", True, True)
    assert len(server.seen("POST", "/things")) == 1


@pytest.mark.parametrize("service", [Service.COMPUTE, Service.IMAGE])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_503_is_not_repeated_even_if_the_configuration_wants_it(
    configure: Configure, server: CloudServer, service: Service, method: str
) -> None:
    configure(connect_retries=3, status_code_retries=3, image_status_code_retries=3)
    cloud = Cloud(read_configuration())
    server.add(service, method, "/things", Reply(503))
    assert failed(cloud, method, "/things", service).code == "cloud_unavailable"
    assert len(server.seen(method, "/things")) == 1
    cloud.close()


def test_an_answer_that_does_not_come_in_time_is_ambiguous(cloud: Cloud, server: CloudServer) -> None:
    cloud.request(Service.COMPUTE, "GET", "/servers")
    server.add(Service.COMPUTE, "POST", "/servers", Reply(delay=0.5))
    with pytest.raises(CloudError) as caught:
        cloud.request(Service.COMPUTE, "POST", "/servers", body={}, timeout=0.1)
    assert (caught.value.code, caught.value.ambiguous) == ("cloud_timeout", True)
    assert len(server.seen("POST", "/servers")) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, "<html><body>Down for maintenance</body></html>", HTML),
        Reply(202, '{"server": {"id": "no-'),
        Reply(202, {"server": {"id": "no-end"}}, is_truncated=True),
        Reply(202, {"other": 1}),
        Reply(202, "null"),
    ],
    ids=["html", "half", "truncated", "other", "null"],
)
def test_an_answer_that_cannot_be_read_is_ambiguous(cloud: Cloud, server: CloudServer, reply: Reply) -> None:
    server.add(Service.COMPUTE, "POST", "/servers", reply)
    with pytest.raises(CloudError) as caught:
        cloud.request(Service.COMPUTE, "POST", "/servers", body={}, read=lambda body: body["server"]["id"])
    assert caught.value.ambiguous
    assert caught.value.retryable


def test_an_empty_answer_may_call_itself_html(cloud: Cloud, server: CloudServer) -> None:
    server.add(Service.VOLUME, "DELETE", "/volumes/1", Reply(202, None, HTML))
    assert cloud.request(Service.VOLUME, "DELETE", "/volumes/1").value is None


def test_a_refused_connection_is_clear(cloud: Cloud, server: CloudServer) -> None:
    server.add(Service.COMPUTE, "GET", "/servers", Reply(200, {}, {"Connection": "close"}))
    cloud.request(Service.COMPUTE, "GET", "/servers")
    server.shutdown()
    server.server_close()
    error = failed(cloud)
    assert (error.code, error.retryable, error.ambiguous) == ("cloud_unavailable", True, False)
    assert str(error) == "The cloud's compute service cannot be reached: Connection refused"


def test_an_expired_login_is_renewed_once(cloud: Cloud, server: CloudServer) -> None:
    server.add(Service.COMPUTE, "POST", "/servers", Reply(401), Reply(202, {"id": "new"}))
    assert cloud.request(Service.COMPUTE, "POST", "/servers", body={}).value == {"id": "new"}
    assert [request.headers["X-Auth-Token"] for request in server.seen("POST", "/servers")] == server.logins
    assert len(server.logins) == 2


def test_a_login_that_stays_refused_is_reported_and_works_later(cloud: Cloud, server: CloudServer) -> None:
    server.add(Service.COMPUTE, "POST", "/servers", Reply(401), Reply(401), Reply(202, {}))
    error = failed(cloud)
    assert (error.code, error.retryable, error.ambiguous) == ("cloud_auth_failed", True, False)
    assert len(server.seen("POST", "/servers")) == 2
    cloud.request(Service.COMPUTE, "POST", "/servers", body={})


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(503, headers={"Retry-After": "7"}), "cloud_unavailable"),
        (Reply(500), "cloud_unavailable"),
        (Reply(502, "<html>Bad Gateway</html>", HTML), "cloud_unavailable"),
        (Reply(404, "<html>no</html>", HTML), "cloud_auth_failed"),
        (Reply(is_cut=True), "cloud_unavailable"),
        (Reply(201, "<html>no</html>", HTML), "cloud_error"),
    ],
    ids=["503", "500", "502", "404", "cut", "html"],
)
def test_a_login_that_fails_sends_nothing_and_is_never_ambiguous(
    cloud: Cloud, server: CloudServer, reply: Reply, code: str
) -> None:
    server.login_replies.append(reply)
    error = failed(cloud)
    assert (error.code, error.retryable, error.ambiguous) == (code, True, False)
    assert error.retry_after == {503: 7.0, 404: 30.0}.get(reply.status)
    assert server.received == []
    cloud.request(Service.COMPUTE, "POST", "/servers", body={})


@pytest.mark.parametrize("reply", [Reply(503), Reply(is_cut=True)], ids=["503", "cut"])
def test_a_new_login_that_fails_is_not_ambiguous(cloud: Cloud, server: CloudServer, reply: Reply) -> None:
    cloud.request(Service.COMPUTE, "GET", "/servers")
    server.add(Service.COMPUTE, "POST", "/servers", Reply(401))
    server.login_replies.append(reply)
    error = failed(cloud)
    assert (error.code, error.retryable, error.ambiguous) == ("cloud_unavailable", True, False)
    assert "identity service" in str(error)


@pytest.mark.parametrize(("service", "path"), [(Service.COMPUTE, "/compute"), (Service.NETWORK, "/network/v2.0")])
def test_an_endpoint_may_be_configured_with_or_without_its_version(
    configure: Configure, server: CloudServer, service: Service, path: str
) -> None:
    configure(**{f"{service}_endpoint_override": server.url + path})
    cloud = Cloud(read_configuration())
    cloud.request(service, "GET", "/things")
    cloud.close()
    assert [request.path for request in server.received] == [f"{PREFIXES[service]}/things"]


@pytest.mark.parametrize("service", [Service.COMPUTE, Service.VOLUME, Service.IMAGE])
def test_a_service_whose_versions_cannot_be_read_is_asked_again(
    cloud: Cloud, server: CloudServer, service: Service
) -> None:
    """Also if its address in the catalogue names a version, such as /v2.1: that alone tells no microversion."""
    server.discovery_replies.extend([Reply(503)] * 4)
    error = failed(cloud, service=service, path="/things")
    assert (error.code, error.retryable, error.ambiguous) == ("cloud_unavailable", True, False)
    server.discovery_replies.clear()
    cloud.request(service, "POST", "/things", body={})
    assert server.received[0].path == f"{PREFIXES[service]}/things"


async def test_sixteen_requests_at_once_use_eight_threads(cloud: Cloud, server: CloudServer) -> None:
    server.add(Service.COMPUTE, "GET", "/servers", *[Reply(200, {}, delay=0.1)] * 16)
    await asyncio.gather(*(cloud.get(Service.COMPUTE, "/servers") for _ in range(16)))
    assert len(server.received) == 16
    assert server.most_at_once == connection.THREADS == 8
    assert len(server.logins) == 1


def test_the_time_of_the_cloud_is_known_from_its_answers(cloud: Cloud, server: CloudServer) -> None:
    server.clock_ahead = 3600.0
    cloud.request(Service.COMPUTE, "GET", "/servers")
    ahead = cloud.now(Service.COMPUTE) - datetime.now(UTC)
    assert timedelta(minutes=59, seconds=55) < ahead <= timedelta(hours=1)
    assert cloud.now(Service.COMPUTE).microsecond == 0


def test_the_last_check_comes_after_the_login_and_before_every_sending(cloud: Cloud, server: CloudServer) -> None:
    server.add(Service.COMPUTE, "POST", "/servers", Reply(401), Reply(202, {}))
    seen = []
    cloud.request(
        Service.COMPUTE,
        "POST",
        "/servers",
        body={},
        before_sending=lambda: seen.append((len(server.logins), len(server.received))),
    )
    assert seen == [(1, 0), (2, 1)]


def test_what_the_last_check_raises_is_raised_and_nothing_is_sent(cloud: Cloud, server: CloudServer) -> None:
    def refuse() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        cloud.request(Service.COMPUTE, "POST", "/servers", body={}, before_sending=refuse)
    assert server.received == []


@pytest.mark.parametrize(
    "words",
    [
        "Invalid input for field/attribute user_data. Value: cGFzc3dvcmQ=. 'cGFzc3dvcmQ=' is too long",
        "Invalid input for field/attribute server. Value: {'user_data': 'cGFzc3dvcmQ='}. 'name' is a required property",
    ],
    ids=["field", "body"],
)
def test_no_secret_is_logged_or_in_an_error(
    cloud: Cloud, server: CloudServer, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server.add(Service.COMPUTE, "POST", "/servers", Reply(400, {"badRequest": {"message": words}}))
    server.add(Service.COMPUTE, "POST", "/servers", Reply(202, {"server": {"adminPass": "made-by-nova"}}))
    with pytest.raises(CloudError) as caught:
        cloud.request(Service.COMPUTE, "POST", "/servers", body={"user_data": "cGFzc3dvcmQ="})
    cloud.request(Service.COMPUTE, "POST", "/servers", body={"user_data": "cGFzc3dvcmQ="})
    written = caplog.text + str(caught.value)
    assert caplog.records
    assert "Invalid input for field/attribute" in written
    for secret in (PASSWORD, "cGFzc3dvcmQ=", "made-by-nova", server.logins[0]):
        assert secret not in written


async def test_a_cloud_is_known_by_its_project_and_its_region(cloud: Cloud) -> None:
    assert await cloud.identity() == f"project {await cloud.project_id()} in region one"
