"""Limits, as a real cloud reported them: a quota that is used up is final, and who asked too often asks again later."""

import pytest

from activities.backends.openstack.connection import Cloud
from activities.backends.openstack.errors import CloudError, Service
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.recordings import Exchange, Recording

SERVICES = {
    "compute": Service.COMPUTE,
    "block_storage": Service.VOLUME,
    "network": Service.NETWORK,
    "image": Service.IMAGE,
}
QUOTAS = [
    *(("compute", name) for name in ("instances", "cores", "ram", "resize", "ports")),
    ("network", "ports"),
    *(("volume", name) for name in ("volumes", "gigabytes", "extend, gigabytes")),
    *(("volume", name) for name in ("per_volume_gigabytes", "extend, per_volume_gigabytes")),
]


def error_of(cloud: Cloud, server: CloudServer, recorded: Exchange) -> CloudError:
    """Send the request, which is answered as it was recorded, and return its error."""
    service = SERVICES[recorded.service]
    path = recorded.path.partition("/v2.1")[2] or recorded.path
    has_request_id = "X-Openstack-Request-Id" in recorded.headers
    headers = {name: value for name, value in recorded.headers.items() if name in {"Retry-After", "Content-Type"}}
    reply = Reply(recorded.status, recorded.body, headers, has_request_id=has_request_id)
    server.add(service, recorded.method, path.partition("?")[0], reply)
    with pytest.raises(CloudError) as caught:
        cloud.request(service, recorded.method, path)
    return caught.value


@pytest.mark.parametrize(("story", "moment"), QUOTAS)
def test_a_quota_that_is_used_up_is_final_and_the_numbers_are_told(
    cloud: Cloud, server: CloudServer, story: str, moment: str
) -> None:
    """Cinder answers 413 with `Retry-After: 0`, which elsewhere means a rate limit."""
    recorded = Recording(f"quotas/{story}").at(moment)
    error = error_of(cloud, server, recorded)
    assert (error.code, error.retryable, error.ambiguous, error.retry_after) == ("quota_exceeded", False, False, None)
    (body,) = recorded.body.values()
    assert body["message"] in str(error)


@pytest.mark.parametrize("moment", ["images", "snapshot"])
def test_a_quota_of_images_that_is_used_up_is_final(cloud: Cloud, server: CloudServer, moment: str) -> None:
    """Glance's error is HTML. Nova has none of its own for a snapshot: its 500 names the class of the exception."""
    error = error_of(cloud, server, Recording("quotas/image").at(moment))
    assert (error.code, error.retryable, error.ambiguous, error.retry_after) == ("quota_exceeded", False, False, None)


def test_too_many_pairs_of_metadata_are_no_quota_that_one_could_free(cloud: Cloud, server: CloudServer) -> None:
    error = error_of(cloud, server, Recording("quotas/compute").at("metadata"))
    assert (error.code, error.retryable) == ("bad_request", False)


@pytest.mark.parametrize("moment", ["read", "create"])
def test_a_rate_limit_is_waited_for_as_long_as_it_says(cloud: Cloud, server: CloudServer, moment: str) -> None:
    """A proxy gave the answer, so nothing was made."""
    error = error_of(cloud, server, Recording("quotas/rate").at(moment))
    assert (error.code, error.retryable, error.ambiguous, error.retry_after) == ("rate_limited", True, False, 7.0)
