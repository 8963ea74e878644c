"""The clouds that the service can drive; settings choose one of them."""

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import ComputeBackend
from domain.settings import Settings


def load_backend(settings: Settings) -> ComputeBackend:
    """Return the backend that COMPUTE_BACKEND names."""
    match settings.compute_backend:
        case "mock":
            return MockBackend(settings)
