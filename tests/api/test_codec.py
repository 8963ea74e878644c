"""The endpoints by which Temporal's Web UI and command line read and write encrypted payloads."""

import base64
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.common.v1 import Payload, Payloads

from domain.payload_codec import ENCRYPTED, EncryptingCodec
from domain.payload_keys import PayloadKey
from domain.rules.accounts import Role
from domain.settings import Settings
from tests.api.conftest import Person, client_of, person, running

KEY = PayloadKey("2026-11", b"n" * 32)
WEB_UI, OTHER = "https://temporal.example", "https://elsewhere.example"
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"web-1"')
CHANGES = {
    "temporal_payload_keys": f"{KEY.id}:{base64.b64encode(KEY.secret).decode()}",
    "temporal_ui_url": f"{WEB_UI}/ui",
    "cors_allow_origins": (OTHER,),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with a key."""
    return Settings(_env_file=None, **(settings.model_dump(exclude_unset=True) | CHANGES))


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application."""
    async with running(settings) as app:
        yield app


@pytest.fixture
async def root(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """The admin."""
    return await person(app, engine, settings, "root", Role.ADMIN)


def body_of(*payloads: Payload) -> Any:
    """The body of a request, as Temporal's tools send it."""
    return json.loads(json_format.MessageToJson(Payloads(payloads=payloads)))


def payloads_of(answer: httpx.Response) -> list[Payload]:
    """The payloads of an answer."""
    assert answer.status_code == 200, answer.text
    return list(json_format.Parse(answer.text, Payloads()).payloads)


async def test_an_admin_encrypts_and_decrypts(root: Person) -> None:
    [encrypted] = payloads_of(await root.http.post("/codec/encode", json=body_of(PLAIN)))
    assert (encrypted.metadata["encoding"], encrypted.metadata["encryption-key-id"]) == (ENCRYPTED, b"2026-11")
    answer = await root.http.post("/codec/decode", json=body_of(encrypted, PLAIN))
    assert payloads_of(answer) == [PLAIN, PLAIN]
    assert answer.headers["Cache-Control"] == "no-store"


async def test_the_web_ui_may_send_more_than_we_know(root: Person) -> None:
    body = body_of(PLAIN)
    body["payloads"][0]["externalPayloads"] = []
    answer = await root.http.post("/codec/decode?preserveStorageRefs=true", json=body)  # what UI 2.54 sends
    assert payloads_of(answer) == [PLAIN]


@pytest.mark.parametrize("path", ["/codec/encode", "/codec/decode"])
async def test_nobody_else_may_use_it(ada: Person, app: FastAPI, path: str) -> None:
    refused = await ada.http.post(path, json=body_of(PLAIN))
    assert (refused.status_code, refused.json()["code"]) == (403, "admin_only")
    assert (await client_of(app).post(path, json=body_of(PLAIN))).status_code == 401


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"payloads": 1}', b'{"payloads": [{"data": 1}]}', b"[" * 9999, b"\xff"]
)
async def test_a_body_of_another_form_is_refused(root: Person, content: bytes) -> None:
    refused = await root.http.post("/codec/decode", content=content)
    assert (refused.status_code, refused.json()["code"]) == (400, "malformed_body")


async def test_a_payload_of_another_key_is_refused_and_the_key_is_named(root: Person) -> None:
    [encrypted] = await EncryptingCodec([PayloadKey("2026-05", b"o" * 32)]).encode([PLAIN])
    refused = await root.http.post("/codec/decode", json=body_of(encrypted))
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "unreadable_payload")
    assert "lacks the key '2026-05'" in refused.json()["detail"]


async def test_other_requests_go_on_while_many_payloads_are_read(root: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    parse = json_format.Parse

    def note(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return parse(*arguments, **options)

    monkeypatch.setattr(json_format, "Parse", note)
    for path in ("/codec/encode", "/codec/decode"):
        await root.http.post(path, json=body_of(PLAIN))
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_without_keys_there_is_no_codec(settings: Settings, engine: AsyncEngine) -> None:
    without = settings.model_copy(update={"temporal_payload_keys": None})
    async with running(without) as app:
        root = await person(app, engine, without, "root")
        assert (await root.http.post("/codec/decode", json=body_of(PLAIN))).status_code == 404
        assert "Access-Control-Allow-Origin" not in (await preflight(app, "/codec/decode", WEB_UI)).headers


async def preflight(app: FastAPI, path: str, origin: str) -> httpx.Response:
    """The answer to the preflight that a browser sends before a page of this origin may use the path."""
    asked = {"Access-Control-Request-Method": "POST"}
    # UI 2.54 sends the ID token of its user, too.
    asked["Access-Control-Request-Headers"] = "authorization,authorization-extras,content-type,x-namespace"
    return await client_of(app).options(path, headers=asked | {"Origin": origin})


async def test_only_pages_of_the_web_ui_may_use_it_and_nothing_else(app: FastAPI, root: Person) -> None:
    allowed = await preflight(app, "/codec/decode", WEB_UI)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, WEB_UI)
    refused = await preflight(app, "/codec/decode", OTHER)
    assert (refused.status_code, refused.json()["code"]) == (403, "preflight_refused")
    assert "TEMPORAL_UI_URL has the origins" in refused.json()["detail"]
    assert (await preflight(app, "/vms", WEB_UI)).status_code == 403
    answer = await root.http.post("/codec/decode", json=body_of(PLAIN), headers={"Origin": WEB_UI})
    assert answer.headers["Access-Control-Allow-Origin"] == WEB_UI
    assert "Access-Control-Allow-Credentials" not in answer.headers
