"""The keys of the identity provider: kept while it is away, changed when it changes them, and no way to harm us."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.background import provider_keys
from api.background.provider_keys import MAX_DOCUMENT, MAX_KEYS
from api.web import admission
from domain.settings import Settings
from tests.api.conftest import client_of, running
from tests.api.oidc import me, refusal, trusting
from tests.support.identity_provider import DISCOVERY, KEY_SET, Answer, Provider, key, running_provider
from tests.support.waiting import poll

AWAY = (503, "identity_provider_unavailable")
INVALID = (401, "invalid_token")


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider with one key."""
    async with running_provider() as provider:
        yield provider


@pytest.fixture
def settings(settings: Settings, provider: Provider) -> Settings:
    """Settings that name the provider."""
    return trusting(settings, provider)


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 503 comes at once."""
    monkeypatch.setattr(admission, "REFUSAL_DELAY", 0.0)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider may be asked again at once."""
    monkeypatch.setattr(provider_keys, "PAUSE", 0.0)


async def ask(app: FastAPI, token: str) -> httpx.Response:
    """Send a request with the token."""
    return await client_of(app, token).get("/flavors")


async def read_again(app: FastAPI) -> None:
    """Read the keys as the background task does it."""
    await app.state.vmapi.provider._keys._read_together()


@pytest.mark.usefixtures("no_pause")
async def test_a_new_key_of_the_provider_is_accepted_with_the_first_token(app: FastAPI, provider: Provider) -> None:
    assert await me(app, provider.token())
    provider.publish(key(), key("second"))
    assert await me(app, provider.token(key("second")))
    assert await me(app, provider.token())


async def test_a_withdrawn_key_is_refused_after_the_next_reading_with_all_its_tokens(
    app: FastAPI, provider: Provider
) -> None:
    token = provider.token()
    assert await me(app, token)
    provider.publish(key("second"))
    await read_again(app)
    for _ in range(2):  # the token was remembered, and must not be again once a right one has come
        assert refusal(await ask(app, token)) == INVALID
        assert await me(app, provider.token(key("second")))


async def test_made_up_keys_ask_the_provider_once_in_a_while(
    app: FastAPI, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await me(app, provider.token())
    monkeypatch.setattr(provider_keys, "PAUSE", 3600.0)
    keys = app.state.vmapi.provider._keys
    keys._read_at = time.monotonic()
    asked = provider.asked.total()
    tokens = [provider.token(header={"kid": f"made-up-{number}"}) for number in range(40)]
    answers = await asyncio.gather(*(ask(app, token) for token in tokens))
    assert {refusal(answer) for answer in answers} == {INVALID}
    assert provider.asked.total() == asked
    keys._read_at -= provider_keys.PAUSE
    answers = await asyncio.gather(*(ask(app, token) for token in tokens))
    assert {refusal(answer) for answer in answers} == {INVALID}
    assert provider.asked.total() == asked + 2  # its metadata and its keys, once


async def test_known_keys_work_while_the_provider_is_away_and_others_are_told_to_wait(
    app: FastAPI, provider: Provider
) -> None:
    assert await me(app, provider.token())
    provider.answers[DISCOVERY] = Answer(b"", 500)
    await read_again(app)
    assert await me(app, provider.token(sub="u-2"))
    answer = await ask(app, provider.token(key("second")))
    assert (refusal(answer), answer.headers["Retry-After"]) == (AWAY, "1")
    assert (await client_of(app).get("/health/live")).status_code == 200


@pytest.mark.usefixtures("no_pause")
async def test_a_process_starts_without_the_provider_and_finds_it_later(settings: Settings, provider: Provider) -> None:
    metadata = provider.answers.pop(DISCOVERY)
    async with running(settings) as app:
        assert refusal(await ask(app, provider.token())) == AWAY
        provider.answers[DISCOVERY] = metadata
        assert await me(app, provider.token())


async def test_the_background_task_comes_back_after_an_outage(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_keys, "RETRY", 0.05)
    metadata = provider.answers.pop(DISCOVERY)
    async with running(settings) as app:
        await poll(lambda: _asked(provider), lambda asked: asked > 2)
        provider.answers[DISCOVERY] = metadata
        await poll(lambda: _version(app), bool)
        assert await me(app, provider.token())


async def _asked(provider: Provider) -> int:
    return provider.asked[DISCOVERY]


async def _version(app: FastAPI) -> int:
    version: int = app.state.vmapi.provider._keys.version
    return version


async def test_a_slow_provider_delays_neither_known_keys_nor_anybody_else(
    app: FastAPI, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.token()
    assert await me(app, token)
    monkeypatch.setattr(provider_keys, "PAUSE", 0.0)
    monkeypatch.setattr(provider_keys, "TIMEOUT", 3600.0)
    provider.answers[KEY_SET].is_held = True
    waiting = [asyncio.create_task(ask(app, provider.token(header={"kid": str(number)}))) for number in range(200)]
    await poll(lambda: _is_reading(app), bool)
    assert (await ask(app, token)).status_code == 200
    assert (await client_of(app).get("/health/live")).status_code == 200
    # Each may keep a large body, even if its client has gone. So their number has a bound.
    assert app.state.vmapi.provider._keys._waiting == provider_keys.MOST_WAITING
    assert sum(not task.done() for task in waiting) >= provider_keys.MOST_WAITING
    provider.let_go.set()
    refused = {refusal(answer) for answer in await asyncio.gather(*waiting)}
    assert INVALID in refused
    assert refused <= {INVALID, (429, "too_many_requests"), (503, "overloaded")}


@pytest.mark.usefixtures("no_pause")
async def test_a_provider_that_does_not_end_its_answer_is_given_up(
    app: FastAPI, provider: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert await me(app, provider.token())
    monkeypatch.setattr(provider_keys, "TIMEOUT", 0.1)
    for path in (KEY_SET, DISCOVERY):
        provider.answers[path].is_held = True
        assert refusal(await ask(app, provider.token(key("second")))) == AWAY
    assert "it takes more than" in caplog.text
    assert await me(app, provider.token())


async def _is_reading(app: FastAPI) -> bool:
    return app.state.vmapi.provider._keys._reading is not None


def published(*entries: Any, **members: Any) -> Answer:
    """A key set."""
    return Answer(json.dumps({"keys": [*entries]} | members).encode())


BAD_ANSWERS = {
    "a redirect": Answer(b"", 302, {"Location": "/stolen"}),
    "a redirect for ever": Answer(b"", 308, {"Location": KEY_SET}),
    "more bytes than a key set has": published(key().public, padding="x" * MAX_DOCUMENT),
    "more bytes than it announces": Answer(b"x" * MAX_DOCUMENT * 2, headers={"Content-Length": "10"}),
    "more keys than a key set has": published(*[key().public] * (MAX_KEYS + 1)),
    "compressed": Answer(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
    "not JSON": Answer(b"<html>"),
    "deep JSON": Answer(b"[" * 100_000),
    "a list": Answer(b"[]"),
    "no keys": published(),
    "keys that are none": published(1, None, [], {}, {"kty": "RSA"}, {"kty": "RSA", "n": 1, "e": []}),
    "a secret": published({"kty": "oct", "kid": "first", "k": "AAAA", "alg": "HS256"}),
    "a secret with an algorithm of ours": published({"kty": "oct", "kid": "first", "k": "AAAA", "alg": "RS256"}),
    "a key to encrypt with": published(key().public | {"use": "enc"}),
    "a key that does not verify": published(key().public | {"key_ops": ["encrypt"]}),
    "a small key": published(key("first", "RS256", 1024).public),
    "a huge key": published(key().public | {"n": "_" * 20_000}),
    "a point that is on no curve": published(key("elliptic", "ES256").public | {"y": "AAAA"}),
    "another algorithm": published(key().public | {"alg": "RS512"}),
    "an id that is no text": published(key().public | {"kid": ["first"]}),
    "no answer": Answer(b"", 204),
    "an error": Answer(b'{"keys": []}', 500),
}


@pytest.mark.parametrize("at", [DISCOVERY, KEY_SET])
async def test_what_cannot_be_keys_is_refused_and_the_known_keys_stay(
    settings: Settings, provider: Provider, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = provider.answers[at]
    provider.answers["/stolen"] = published(key("stolen").public)
    async with running(settings) as app:
        assert await me(app, provider.token())
        for name, bad in BAD_ANSWERS.items():
            if at == DISCOVERY and bad.status == 200 and bad.body.startswith(b'{"keys"'):
                continue  # it names no issuer, so what else it says does not matter
            caplog.clear()
            provider.answers[at] = bad
            await read_again(app)
            assert await me(app, provider.token()), name
            assert refusal(await ask(app, provider.token(key("stolen")))) == AWAY, name
            [line] = [record.getMessage() for record in caplog.records if record.name == provider_keys.__name__]
            assert line.startswith(f"the keys of the identity provider {provider.issuer} cannot be read: "), name
            assert "a bug" not in line, name
            provider.answers[at] = good
            await read_again(app)
    assert provider.asked["/stolen"] == 0


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://login.example.com"},
        {"issuer": None},
        {"jwks_uri": "http://169.254.169.254/latest/meta-data"},
        {"jwks_uri": "http://login.example.com/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "//keys"},
        {"jwks_uri": 1},
        {"id_token_signing_alg_values_supported": ["HS256", "none"]},
        {"id_token_signing_alg_values_supported": "RS256"},
        {"id_token_signing_alg_values_supported": ["ES256"]},
    ],
)
async def test_metadata_that_leads_elsewhere_is_refused(
    settings: Settings, provider: Provider, metadata: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    provider.publish(key(), **metadata)
    async with running(settings) as app:
        assert refusal(await ask(app, provider.token())) == AWAY
    # Not that it cannot be reached, or has no keys.
    assert ("the address of its keys is" in caplog.text) == ("jwks_uri" in metadata)


async def test_one_bad_key_hides_no_good_one(app: FastAPI, provider: Provider) -> None:
    provider.answers[KEY_SET] = published({"kty": "XYZ", "kid": "first"}, None, key().public)
    await read_again(app)
    assert await me(app, provider.token())


async def test_a_private_key_that_was_published_is_only_used_as_a_public_one(app: FastAPI, provider: Provider) -> None:
    provider.answers[KEY_SET] = published(key().public | {"d": "AQAB"})
    await read_again(app)
    assert await me(app, provider.token())


async def test_without_an_id_one_of_several_keys_is_not_guessed(app: FastAPI, provider: Provider) -> None:
    nameless = {name: value for name, value in key().public.items() if name != "kid"}
    provider.answers[KEY_SET] = published(nameless)
    await read_again(app)
    token = provider.token(header={"kid": None})
    assert await me(app, token)
    provider.answers[KEY_SET] = published(key("second").public, nameless)
    await read_again(app)
    assert refusal(await ask(app, token)) == INVALID


async def test_a_database_outage_at_first_sight_is_told_as_one(settings: Settings, provider: Provider) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql+asyncpg://127.0.0.1:1/none"})
    async with running(nowhere) as app:
        assert refusal(await ask(app, provider.token())) == (503, "database_unavailable")
