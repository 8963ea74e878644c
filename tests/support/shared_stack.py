"""One stack for most tests that need one, and a new user for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from activities.backends.faults import clear_faults
from domain.settings import Settings
from tests.support.stack import Stack
from tests.support.users import User, log_in


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack of this session; a test may kill any part of it, since the supervisor restarts it."""
    stack = Stack.at(tmp_path_factory.mktemp("stack"))
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[User]:
    """A new user, logged in."""
    async with log_in(stack) as user:
        yield user


@pytest.fixture
async def cloud(stack: Stack) -> AsyncIterator[Settings]:
    """Settings for scripting faults of the stack's mock cloud; they are removed after the test."""
    settings = Settings(_env_file=None, database_url=stack.database_url)
    yield settings
    await clear_faults(settings)
