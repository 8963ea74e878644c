"""One stack for all integration tests, and a fresh user for each."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.integration.stack import Stack, User, free_ports


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is ready; whatever a test does to it, it comes back."""
    data_dir: Path = tmp_path_factory.mktemp("stack")
    api, temporal, web_ui = free_ports(3)
    stack = Stack(data_dir, api, temporal, web_ui)
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[User]:
    """A user of their own, logged in."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=5) as http:
        user = User(http)
        name = f"user-{uuid4().hex[:12]}"
        login = {"username": name, "password": "Correct-Horse-1"}
        account = login | {"email": f"{name}@example.com"}
        assert (await user.request("POST", "/auth/register", json=account)).status_code == 201
        tokens = (await user.request("POST", "/auth/login", json=login)).json()
        http.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        yield user
