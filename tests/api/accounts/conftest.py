"""An account with a real password, which is cheap to hash."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.web import security
from tests.api.conftest import PASSWORD, client_of

ACCOUNT = {"username": "grace", "email": "grace@navy.test", "password": PASSWORD}
NEW_PASSWORD = "Newer-Horse-2"


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with the lowest cost that bcrypt allows."""
    monkeypatch.setattr(security, "_BCRYPT_COST", 4)


async def log_in(app: FastAPI, password: str = PASSWORD, username: str = "grace") -> httpx.Response:
    """The answer to a login."""
    return await client_of(app).post("/auth/login", json={"username": username, "password": password})


async def logged_in(app: FastAPI, password: str = PASSWORD, username: str = "grace") -> httpx.AsyncClient:
    """A client with a new login; it keeps the refresh token as an attribute of its headers."""
    answer = await log_in(app, password, username)
    assert answer.status_code == 200, answer.text
    pair: dict[str, Any] = answer.json()
    client = client_of(app, pair["access_token"])
    client.headers["X-Refresh"] = pair["refresh_token"]
    return client


async def refresh(client: httpx.AsyncClient) -> httpx.Response:
    """The answer to a refresh with the client's last refresh token."""
    return await client.post("/auth/refresh", json={"refresh_token": client.headers["X-Refresh"]})


@pytest.fixture
async def grace(app: FastAPI) -> httpx.AsyncClient:
    """A registered user who has logged in."""
    assert (await client_of(app).post("/auth/register", json=ACCOUNT)).status_code == 201
    return await logged_in(app)
