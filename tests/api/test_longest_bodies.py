"""Every legal body fits into MAX_BODY, also if each of its characters is escaped."""

import asyncio
import importlib
import json
import re
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import httpx
import pytest
from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from api.app import RESERVED_CONNECTIONS
from api.routes import requests
from api.web import json_body
from api.web.field_errors import MAX_ERRORS
from api.web.problems import MAX_BODY, MAX_BODY_OF_LOGINS
from api.web.reading import Reading
from api.web.slots import NoSlotError
from domain.rules import text
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, person, running

JSON = {"Content-Type": "application/json"}
ASTRAL = "\N{PERSONAL COMPUTER}"  # its escape has twelve bytes, those of ASCII characters have six
ENDLESS = 10**9
_PARSER = importlib.import_module("re._parser")  # by its name, because type checkers do not know that it exists
# A batch is the exception: a hundred of the longest VMs would have 60 MB. See `test_a_batch_of_a_hundred_...`.
MODELS = [
    model
    for model in vars(requests).values()
    if isinstance(model, type) and issubclass(model, requests.Request) and model is not requests.NewVMs
]
# Fields of which a body has only one.
ALTERNATIVES = (
    {"flavor", "flavor_id"},
    {"network", "network_id"},
    {"networks", "network_ids", "interfaces"},
    {"image", "image_id", "snapshot_id", "boot_volume"},
)


def longest(schema: dict[str, Any], definitions: dict[str, Any]) -> int:
    """The bytes of the longest legal value in its longest encoding, but without white space around it."""
    if "$ref" in schema:
        return longest(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return max(longest(choice, definitions) for choice in schema["anyOf"])
    match schema.get("type"):
        case "array":
            return 2 + int(schema["maxItems"]) * (longest(schema["items"], definitions) + 1)
        case "object":
            return longest_object(schema, definitions)
        case "string" | ["string", "null"]:
            return 2 + longest_text(schema)
    return 20  # a number, a boolean, null


def longest_object(schema: dict[str, Any], definitions: dict[str, Any]) -> int:
    """The bytes of the longest legal object."""
    members = 0
    if "propertyNames" in schema:
        name = longest_text(schema["propertyNames"])
        members += schema["maxProperties"] * (name + 4 + longest(schema["additionalProperties"], definitions))
    lengths = {
        name: 6 * len(name) + 4 + longest(value, definitions) for name, value in schema.get("properties", {}).items()
    }
    for names in ALTERNATIVES:
        present = sorted(names & lengths.keys(), key=lengths.__getitem__)
        for shorter in present[:-1]:
            del lengths[shorter]
    return 2 + members + sum(lengths.values())


def longest_text(schema: dict[str, Any]) -> int:
    """The bytes of the longest legal text between its quotes, if every character is escaped."""
    if "enum" in schema or "const" in schema:
        return max(6 * len(word) for word in schema.get("enum", [schema.get("const")]))
    if "x-max-bytes" in schema:
        return 6 * int(schema["x-max-bytes"])  # ASCII characters have the longest escapes for their bytes
    if schema.get("format") == "uuid":
        return 36 * 6
    pattern = schema.get("pattern", "")
    # The width is 0 if the pattern only looks ahead, as that of passwords does.
    width = _PARSER.parse(pattern).getwidth()[1] or ENDLESS
    is_astral = any(re.search(pattern, text) for text in (ASTRAL * 2, f"{ASTRAL}@{ASTRAL}", f"Aa1{ASTRAL}"))
    return int(min(schema.get("maxLength", ENDLESS), width)) * (12 if is_astral else 6)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_longest_legal_body_is_not_too_large(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    is_of_login = model in (requests.Registration, requests.Credentials, requests.RefreshRequest)
    assert longest(schema, schema.get("$defs", {})) <= (MAX_BODY_OF_LOGINS if is_of_login else MAX_BODY)


@pytest.mark.parametrize("path", ["register", "login", "refresh"])
async def test_a_stranger_cannot_have_a_large_body_parsed(anyone: httpx.AsyncClient, path: str) -> None:
    answer = await anyone.post(f"/auth/{path}", content=b" " * (MAX_BODY_OF_LOGINS + 1), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert str(MAX_BODY_OF_LOGINS) in answer.json()["detail"]


async def test_nothing_is_parsed_for_a_caller_without_a_token(
    anyone: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(json_body, "_parse", parsed.append)
    answer = await anyone.post("/vms", content=b"{}", headers=JSON)
    assert (answer.status_code, parsed) == (401, [])


async def test_others_are_answered_while_a_large_body_is_parsed(
    anyone: httpx.AsyncClient, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def parse_late(_body: bytes) -> dict[str, str]:
        assert answered.wait(10)
        return {"name": "data", "size_gb": "?"}

    monkeypatch.setattr(json_body, "_parse", parse_late)
    large = asyncio.create_task(ada.http.post("/volumes", content=b" " * 100_000, headers=JSON))
    await asyncio.sleep(0.1)
    assert (await anyone.get("/health/live")).status_code == 200
    answered.set()
    assert (await large).json()["code"] == "validation_failed"


async def test_others_are_answered_while_a_large_body_is_checked(
    anyone: httpx.AsyncClient, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look for what nobody sees in 800 KB of joiners takes a second."""
    answered = threading.Event()
    monkeypatch.setattr(text, "find_unseen", lambda _: None if answered.wait(10) else "a")
    body = json.dumps({"name": "data", "size_gb": 1}) + " " * 100_000
    large = asyncio.create_task(ada.http.post("/volumes", content=body, headers=JSON))
    await asyncio.sleep(0.1)
    assert (await anyone.get("/health/live")).status_code == 200
    answered.set()
    assert (await large).status_code == 202


async def test_a_large_body_takes_no_slot_while_it_is_read(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few users with large bodies would have all slots."""
    answered = threading.Event()

    def parse_late(_body: bytes) -> dict[str, object]:
        return {"name": "data", "size_gb": 1} if answered.wait(10) else {}

    monkeypatch.setattr(json_body, "_parse", parse_late)
    few = settings.model_copy(update={"db_pool_size": RESERVED_CONNECTIONS + 1, "db_max_overflow": 0})
    async with running(few) as app:
        ada = await person(app, engine, few, "ada")
        large = asyncio.create_task(ada.http.post("/volumes", content=b" " * 100_000, headers=JSON))
        await asyncio.sleep(0.1)
        assert (await ada.http.get("/vms")).status_code == 200
        answered.set()
        assert (await large).status_code == 202


async def test_the_large_body_of_a_client_that_has_left_is_not_read() -> None:
    """It has waited for its turn, and keeps others waiting."""
    body = {"type": "http.request", "body": b"{}" + b" " * 9000, "more_body": False}
    process = SimpleNamespace(reading=Reading())
    slot = {"slot_caller": ("ada", 0.0), "release_slot": Mock(), "take_slot": AsyncMock()}
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]} | slot
    app = SimpleNamespace(state=SimpleNamespace(vmapi=process))
    receive, check = AsyncMock(side_effect=[body, {"type": "http.disconnect"}]), Mock()
    with pytest.raises(NoSlotError):
        await json_body.read(Request(scope | {"app": app}, receive), check)
    assert not check.called
    assert process.reading.slots.free_of("ada") == process.reading.slots.most_of_caller


@pytest.mark.parametrize("count", [1, 100])
def test_the_errors_of_a_body_are_few(count: int) -> None:
    """All errors of a batch of 600 KB took a second, although a problem shows twenty."""
    unknown = dict.fromkeys("ABCDEFGHIJKLMNOPQRSTU", 0)
    labels = {f"{number}_": 0 for number in range(64)}
    vm = {"interfaces": [unknown] * 16, "volumes": [unknown] * 25, "boot_volume": unknown, "labels": labels}
    with pytest.raises(ValidationError) as error:
        requests.NewVMs.model_validate({"vms": [vm] * count})
    assert MAX_ERRORS < error.value.error_count() <= 2 * MAX_ERRORS


def test_the_longest_body_is_computed_as_by_hand() -> None:
    login = requests.Credentials.model_json_schema()
    assert (
        longest(login, {})
        == len(json.dumps({"username": ASTRAL * 255, "password": ASTRAL * 256}, separators=(",", ":")))
        + 5 * len("usernamepassword")
        + 1
    )
    vm = requests.NewVM.model_json_schema()
    assert longest(vm, vm["$defs"]) > MAX_BODY // 2


async def test_the_most_and_longest_labels_are_accepted_also_if_every_character_is_escaped(ada: Person) -> None:
    labels = {f"{n:02}" + "k" * 61: ASTRAL * 255 for n in range(64)}
    body = json.dumps({"name": ASTRAL * 255, "flavor_id": FLAVOR, "labels": labels})
    answer = await ada.http.post("/vms", content=body, headers=JSON)
    assert answer.status_code == 202, answer.text
    assert answer.json()["labels"] == labels
    changed = await ada.http.patch(f"/vms/{answer.json()['id']}", content=json.dumps({"labels": labels}), headers=JSON)
    assert changed.json()["labels"] == labels


async def test_a_batch_of_a_hundred_vms_with_labels_and_scripts_fits(ada: Person) -> None:
    labels = {f"label-{n}": "value" * 10 for n in range(16)}
    vm = {"flavor": "m1.small", "labels": labels, "user_data": "#!/bin/sh\n" + "echo hello\n" * 500, "networks": []}
    body = json.dumps({"vms": [vm | {"name": f"web-{n}"} for n in range(100)]})
    assert MAX_BODY * 0.8 < len(body) < MAX_BODY
    answer = await ada.http.post("/vms/batch", content=body, headers=JSON)
    assert answer.status_code == 202, answer.text
    assert len(answer.json()["items"]) == 100


async def test_a_batch_that_is_too_long_says_so(ada: Person) -> None:
    body = json.dumps(
        {"vms": [{"name": f"web-{n}", "flavor": "m1.small", "user_data": "x" * 8704} for n in range(100)]}
    )
    answer = await ada.http.post("/vms/batch", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
