"""Fixtures of the tests on a real cloud: our service in front of the cloud that OS_CLOUD names, and a user of it."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.openstack.contents import OurThings
from tests.support.stack import Stack
from tests.support.users import User, log_in
from tests.support.waiting import poll

DEADLINE = 300.0  # seconds; the cloud may share the machine with the tests
POLL_EVERY = 0.5


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave out what needs a real cloud."""
    return None if config.getoption("--openstack") else True


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack of this session, as `make up COMPUTE_BACKEND=openstack` starts it."""
    assert os.environ.get("OS_CLOUD"), "set OS_CLOUD, or run python -m tests.openstack"
    stack = Stack.at(tmp_path_factory.mktemp("stack"), COMPUTE_BACKEND="openstack")
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[User]:
    """A new user, logged in, who has patience."""
    async with log_in(stack, POLL_EVERY) as user:
        user.deadline = DEADLINE
        await poll(user.flavors, bool)  # a worker reads the cloud's catalogue when it starts
        yield user


@pytest.fixture(scope="session")
def ours() -> Iterator[OurThings]:
    """What the cloud has with our marks."""
    ours = OurThings()
    yield ours
    ours.close()


@pytest.fixture
def test_cloud() -> None:
    """The test cloud, whose services may be killed; skips the test on any other cloud."""
    if "TEST_CLOUD_HOME" not in os.environ:
        pytest.skip("only the test cloud's services may be killed")
