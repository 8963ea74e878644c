"""The fixtures of the integration tests: a running stack and a user of it."""

from tests.integration.conftest import stack, user

__all__ = ["stack", "user"]
