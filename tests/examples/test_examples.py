"""The examples of the documentation are real answers, and there is one for every answer and every problem.

`EXAMPLES=record .venv/bin/python -m pytest tests/examples` records them anew.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema_rs
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from api.app import create_app
from api.server import phases
from api.web import examples
from api.web.problem_types import PROBLEM_TYPES
from domain.data import database, queries
from domain.data.accounts import User
from domain.rules.accounts import Role
from domain.settings import Settings
from tests.api.conftest import Person, client_of, person, running
from tests.api.server.conftest import running_site
from tests.conftest import make_settings
from tests.examples import refusals, tour
from tests.examples.recorder import Recording, without_times
from tests.examples.tour import Guest

COMPOSE_WITH_TLS = Path(__file__).parents[2] / "docker-compose.tls.yml"
ORIGIN = "https://pages.example"
DOCUMENT: dict[str, Any] = json.loads(json.dumps(create_app(make_settings("postgresql://unused/unused")).openapi()))


@pytest.fixture
async def recording(database_url: str, temporal: Client) -> dict[str, Any]:
    """A new recording."""
    new = Recording(DOCUMENT)
    address = temporal.service_client.config.target_host
    settings = make_settings(
        database_url,
        temporal_address=address,
        temporal_task_queue=f"test-{uuid4()}",
        temporal_ui_url="http://127.0.0.1:8233",
        cors_allow_origins=ORIGIN,
    )
    engine = database.create_engine(settings)
    async with running(settings) as app, tour.working(settings, temporal, engine):
        token = await tour.take(app, new)
    await _provoke_refusals(settings.model_copy(update={"temporal_address": "127.0.0.1:1"}), engine, new, token)
    await asyncio.to_thread(_provoke_the_server, new)
    await engine.dispose()
    return new.settled()


async def _provoke_refusals(settings: Settings, engine: AsyncEngine, new: Recording, token: str) -> None:
    async with running(settings) as app:
        admin = await person(app, engine, settings, "root", Role.ADMIN)
        ada, root = Guest.of(app, new, token), Guest.of(app, new, admin.http.headers["Authorization"].split()[1])
        async with engine.connect() as connection:
            owner = await queries.fetch_one(connection, select(User).where(User.username == "ada"))
        assert owner
        await refusals.form(ada)
        await refusals.callers(app, new, ada, engine)
        await refusals.references(ada, engine, Person(owner, admin.caller, client_of(app)))
        await refusals.states(ada, root, engine, owner)
        await refusals.projects(ada, root)
        await refusals.admins(app, ada, root, engine, owner)
        await refusals.service(app, new, ada)


def _provoke_the_server(new: Recording) -> None:
    """Send what the server refuses before the application sees it."""
    with running_site() as site:
        for request in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /" + b"a" * 40_000,
            b"GET / HTTP/1.1\r\nHost: api\r\nX: " + b"a" * 40_000,
            b"BREW / HTTP/1.1\r\nHost: api\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: api\r\n\r\n",
        ):
            new.note_problem(site.ask(request).json())
        slow = site.client()
        slow.send(b"GET / HTTP/1.1\r\nHo")
        site.pass_time(phases.HEAD_TIME + 1)
        new.note_problem(slow.read().json())
    [of_the_proxy] = re.findall("return 503 '(.*)';", COMPOSE_WITH_TLS.read_text())
    new.note_problem(json.loads(of_the_proxy.replace("$$request_id", str(uuid4()))))


async def test_the_examples_are_what_the_service_answers(recording: dict[str, Any]) -> None:
    if os.environ.get("EXAMPLES") == "record":
        examples.RECORDED.write_text(json.dumps(recording, indent=1) + "\n")
        return
    now, kept = without_times(recording), without_times(json.loads(examples.RECORDED.read_text()))
    different = {
        f"{part} of {name}": (now[part].get(name), kept[part].get(name))
        for part in now
        for name in now[part].keys() | kept[part].keys()
        if now[part].get(name) != kept[part].get(name)
    }
    assert different == {}, "EXAMPLES=record .venv/bin/python -m pytest tests/examples"


def test_every_problem_has_an_example() -> None:
    assert [code for code in PROBLEM_TYPES if examples.of_problem(code) is None] == []


def _operations() -> Iterator[dict[str, Any]]:
    for item in DOCUMENT["paths"].values():
        yield from item.values()


def test_every_answer_with_a_body_has_an_example_and_so_has_every_body_with_fields() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for operation in _operations():
        name = operation["operationId"]
        successes = [response for status, response in operation["responses"].items() if status < "300"]
        has_body = any("application/json" in response.get("content", {}) for response in successes)
        assert examples.of_answer(name) or not has_body, name
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        fields = schemas.get(body.get("$ref", "").rpartition("/")[2], {}).get("properties")
        assert examples.of_request(name) or not fields, name


def _examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """The name, the schema and the value of every example in the document."""
    for operation in _operations():
        for status, response in operation["responses"].items():
            contents = response.get("content", {})
            for content in (contents[kind] for kind in contents if kind.endswith("json")):
                values = [content["example"]] if "example" in content else []
                values += [_followed(each)["value"] for each in content.get("examples", {}).values()]
                assert values, (operation["operationId"], status)
                yield from ((f"{operation['operationId']} {status}", content["schema"], value) for value in values)
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in content:
                yield operation["operationId"], content["schema"], content["example"]


def _followed(example: dict[str, str]) -> dict[str, Any]:
    return DOCUMENT["components"]["examples"][example["$ref"].rpartition("/")[2]]  # type: ignore[no-any-return]


def test_the_examples_are_valid() -> None:
    components = json.loads(json.dumps({"components": DOCUMENT["components"]}))
    for schema in components["components"]["schemas"].values():
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
    for name, schema, value in _examples():
        errors = [error.message for error in jsonschema_rs.validator_for(schema | components).iter_errors(value)]
        assert errors == [], name
