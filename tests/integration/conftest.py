"""One stack for most integration tests, and a fresh user for each."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.stack import Stack, User, log_in


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is ready; whatever a test does to it, it comes back."""
    stack = Stack.at(tmp_path_factory.mktemp("stack"))
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[User]:
    """A user of their own, logged in."""
    async with log_in(stack) as user:
        yield user
