"""The service with tokens of a real identity provider, the npm package `oidc-provider`, which is certified.

`make clients` installs it and runs these tests. The rest of the tests has a provider of its own.
"""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from api.background import provider_keys
from domain.settings import Settings
from tests.api.conftest import client_of, running
from tests.api.oidc import me, refusal
from tests.clients.commands import HERE
from tests.support.stack import free_ports
from tests.support.waiting import poll

FOLDER = HERE / "oidc"
CALLBACK = "http://127.0.0.1:1/callback"
ROBOT = ("robot", "a-secret-of-the-robot")
START = 60.0  # seconds

pytestmark = pytest.mark.skipif(not (FOLDER / "node_modules/oidc-provider").exists(), reason="make clients")


class RealProvider:
    """The provider as a process; a restart gives it new keys."""

    def __init__(self) -> None:
        [port] = free_ports(1)
        self.issuer = f"http://127.0.0.1:{port}"
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        command = ("node", "provider.mjs", str(self._port))
        nothing = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*command, cwd=FOLDER, stdout=nothing, stderr=nothing)
        await poll(self._serves, bool, deadline=START)

    async def _serves(self) -> bool:
        try:
            async with httpx.AsyncClient() as http:
                return (await http.get(f"{self.issuer}/.well-known/openid-configuration")).is_success
        except httpx.ConnectError:
            return False

    async def stop(self) -> None:
        """Stop it."""
        if self._process and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def robot_token(self, resource: str = "urn:vm-api:RS256") -> str:
        """An access token of a program, by the grant `client_credentials`."""
        form = {"grant_type": "client_credentials", "resource": resource}
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{self.issuer}/token", data=form, auth=ROBOT)
        return str(answer.json()["access_token"])

    async def log_in(self, name: str) -> dict[str, str]:
        """The tokens of a person who logs in as a browser would do it: authorization code with PKCE."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        wanted = {"client_id": "vmctl", "response_type": "code", "redirect_uri": CALLBACK, "scope": "openid vms"}
        wanted |= {"code_challenge": challenge, "code_challenge_method": "S256", "resource": "urn:vm-api:RS256"}
        async with httpx.AsyncClient(base_url=self.issuer) as http:
            answer = await http.get("/auth", params=wanted)
            for form in ({"prompt": "login", "login": name, "password": "any"}, {"prompt": "consent"}):
                page = answer.headers["Location"]
                answer = await http.post(page, data=form)
                answer = await http.get(answer.headers["Location"])
            [code] = parse_qs(urlsplit(answer.headers["Location"]).query)["code"]
            exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
            exchange |= {"client_id": "vmctl", "code_verifier": verifier, "resource": "urn:vm-api:RS256"}
            tokens: dict[str, str] = (await http.post("/token", data=exchange)).json()
        return tokens


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[RealProvider]:
    """A running provider."""
    provider = RealProvider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def app(settings: Settings, provider: RealProvider) -> AsyncIterator[FastAPI]:
    """The application, which names the provider."""
    oidc = {"oidc_issuer": provider.issuer, "oidc_audience": "vm-api"}
    roles = {"oidc_role_claim": "groups", "oidc_admin_value": "vm-admins"}
    async with running(settings.model_copy(update=oidc | roles)) as app:
        yield app


async def test_a_person_who_has_logged_in_there_is_a_user_here(app: FastAPI, provider: RealProvider) -> None:
    profile = await me(app, (await provider.log_in("ada"))["access_token"])
    assert (profile["username"], profile["role"]) == ("ada", "user")
    assert (await me(app, (await provider.log_in("ada"))["access_token"]))["id"] == profile["id"]


async def test_a_member_of_the_group_of_admins_is_an_admin_here(app: FastAPI, provider: RealProvider) -> None:
    tokens = await provider.log_in("root")
    assert (await client_of(app, tokens["access_token"]).get("/admin/attention")).status_code == 200
    ada = (await provider.log_in("ada"))["access_token"]
    assert refusal(await client_of(app, ada).get("/admin/attention")) == (403, "admin_only")


async def test_a_token_that_only_says_who_somebody_is_gives_no_access(app: FastAPI, provider: RealProvider) -> None:
    """An ID token has the client as its audience, which anybody may hand on."""
    id_token = (await provider.log_in("ada"))["id_token"]
    assert refusal(await client_of(app, id_token).get("/auth/me")) == (401, "invalid_token")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_program_is_a_user_whatever_the_algorithm(app: FastAPI, provider: RealProvider, algorithm: str) -> None:
    token = await provider.robot_token(f"urn:vm-api:{algorithm}")
    assert (await me(app, token))["username"] == "robot"


async def test_a_token_for_another_service_is_refused(app: FastAPI, provider: RealProvider) -> None:
    token = await provider.robot_token("urn:mail:RS256")
    answer = await client_of(app, token).get("/auth/me")
    assert refusal(answer) == (401, "invalid_token")
    assert "audience" in answer.json()["detail"]


async def test_known_keys_outlive_the_provider_and_new_keys_are_found(
    app: FastAPI, provider: RealProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_keys, "PAUSE", 0.0)
    before = await provider.robot_token()
    assert await me(app, before)
    await provider.stop()
    assert await me(app, before)
    await provider.start()
    assert await me(app, await provider.robot_token())
    assert refusal(await client_of(app, before).get("/auth/me")) == (401, "invalid_token")
