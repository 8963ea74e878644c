"""What the tests of the identity provider share."""

from typing import Any

import httpx
from fastapi import FastAPI

from domain.settings import Settings
from tests.api.conftest import client_of
from tests.support.identity_provider import AUDIENCE, Provider


def trusting(settings: Settings, provider: Provider, **more: str) -> Settings:
    """The settings with this provider."""
    return settings.model_copy(update={"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE} | more)


async def me(app: FastAPI, token: str) -> dict[str, Any]:
    """The profile of the user with the token."""
    answer = await client_of(app, token).get("/auth/me")
    assert answer.status_code == 200, answer.text
    profile: dict[str, Any] = answer.json()
    return profile


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The status and the code of a problem."""
    return answer.status_code, answer.json()["code"]
