"""One stack for most integration tests, and a fresh user for each."""

from collections.abc import AsyncIterator, Iterator

import pytest

import local
from activities.backends.faults import clear_faults
from domain.settings import Settings
from tests.conftest import make_settings
from tests.support.stack import Stack, User, log_in


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


@pytest.fixture
async def cloud(stack: Stack) -> AsyncIterator[Settings]:
    """Settings that reach the stack's mock cloud, which is free of faults afterwards."""
    settings = make_settings(local.postgres_url(local.postgres_socket_dir(stack.data_dir / "postgres")))
    yield settings
    await clear_faults(settings)
