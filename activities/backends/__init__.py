"""The clouds that the service can drive; settings choose one of them."""

import importlib.util

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import ComputeBackend, UnusableCloudError
from domain.settings import Settings


def load_backend(settings: Settings) -> ComputeBackend:
    """Return the backend that COMPUTE_BACKEND names; UnusableCloudError if it cannot work here."""
    match settings.compute_backend:
        case "mock":
            return MockBackend(settings)
        case "openstack":
            if importlib.util.find_spec("openstack") is None:
                raise UnusableCloudError("openstacksdk is not installed; install requirements-openstack.txt")
            # Only here, because its libraries are optional.
            from activities.backends.openstack.backend import OpenStackBackend  # noqa: PLC0415

            return OpenStackBackend(settings)
