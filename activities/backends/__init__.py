"""The clouds that can be driven; the one the settings name is loaded by `load_backend`."""

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import ComputeBackend
from domain.settings import Settings


def load_backend(settings: Settings) -> ComputeBackend:
    """The backend that COMPUTE_BACKEND names."""
    match settings.compute_backend:
        case "mock":
            return MockBackend(settings)
