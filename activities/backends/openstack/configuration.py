"""Reads which cloud to use, as every OpenStack tool does: from clouds.yaml and OS_CLOUD, or from OS_* variables.

The process reads it once, when it starts.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keystoneauth1 import exceptions as keystone
from openstack.config import OpenStackConfig
from openstack.config.cloud_region import CloudRegion
from openstack.exceptions import SDKException

from activities.backends.protocol import UnusableCloudError

LOGIN_TIMEOUT: Final = 20.0  # seconds; also of the discovery of versions
NO_CLOUD: Final = "no OpenStack cloud is configured; set OS_CLOUD to a cloud of clouds.yaml, or set the OS_* variables"


def read_configuration() -> CloudRegion:
    """Return the cloud that is configured; UnusableCloudError if there is none or it cannot be used. Sends nothing."""
    with _unreadable_files() as skipped:
        try:
            configuration = OpenStackConfig(app_name="openstack-vm-api")
            if configuration.default_cloud in (None, "defaults"):
                raise UnusableCloudError(f"{skipped[0]} is not valid YAML" if skipped else NO_CLOUD)
            region = configuration.get_one()
            _check_configuration(region)
            session = region.get_session()
        except (SDKException, keystone.ClientException) as error:
            hint = f" ({skipped[0]} is not valid YAML)" if skipped else ""
            raise UnusableCloudError(f"{' '.join(str(error).split()).rstrip('.')}{hint}") from None
        except (ValueError, TypeError, AttributeError) as error:
            # The text may repeat any value.
            raise UnusableCloudError(
                f"a value of the cloud's configuration is wrong ({type(error).__name__})"
            ) from None
    # It is used for logins and for discovery. Without it they could wait for ever.
    session.timeout = session.timeout or LOGIN_TIMEOUT
    return region


def _check_configuration(region: CloudRegion) -> None:
    if region.get_cache_class() != "dogpile.cache.null" or region.get_cache_expirations():
        raise UnusableCloudError("clouds.yaml has a `cache:` of answers; remove it, or old states pass for new ones")
    verify, certificate = region.get_requests_verify_args()
    files = [verify, *(certificate if isinstance(certificate, tuple) else (certificate,))]
    missing = [file for file in files if isinstance(file, str) and not Path(file).exists()]
    if missing:
        raise UnusableCloudError(f"the TLS file {missing[0]} of the cloud's configuration does not exist")


@contextlib.contextmanager
def _unreadable_files() -> Iterator[list[str]]:
    """Collect the configuration files that are not valid YAML; the SDK's own warning may repeat a part of a secret."""
    skipped: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        is_warning = str(record.msg).startswith("Skipping config file")
        if is_warning and isinstance(record.args, tuple):
            skipped.append(str(record.args[0]))
        return not is_warning

    log = logging.getLogger("openstack.config")
    log.addFilter(collect)
    try:
        yield skipped
    finally:
        log.removeFilter(collect)
