"""The stack of the integration tests, and what schemathesis needs to call it as a user with a VM."""

from tests.integration.conftest import stack, user

__all__ = ["stack", "user"]
