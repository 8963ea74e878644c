"""The OpenAPI document: what programs that make clients from it rely on."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from api.routes import requests
from api.web.problems import STATUS_OF_CODE
from domain.rules.states import Action
from domain.upkeep.attention import KINDS

OPERATION_ID = re.compile(
    r"(get|list|create|change|delete|start|stop|reboot|resize|confirm|revert|restore|attach|detach|cancel|retry|reset"
    r"|open|add|extend|adopt|set|follow|register|log_in|log_out|refresh|disable|enable|export)(_[a-z]+)*"
)
OPEN = {"get_health", "get_liveness", "get_readiness", "register_user", "log_in", "refresh_tokens"}


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return json.loads(json.dumps(app.openapi()))  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        yield from item.values()


def sent(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every schema of a parameter or a body, with those that it refers to written out."""

    def whole(schema: Any) -> Any:
        if isinstance(schema, list):
            return [whole(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            schema = schema | document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            del schema["$ref"]
        return {key: whole(value) for key, value in schema.items()}

    for operation in operations(document):
        for parameter in operation.get("parameters", []):
            yield f"{operation['operationId']}: {parameter['name']}", whole(parameter["schema"])
        for content in operation.get("requestBody", {}).get("content", {}).values():
            yield operation["operationId"], whole(content["schema"])


async def test_what_a_client_sends_is_described_plainly(document: dict[str, Any]) -> None:
    for name, schema in sent(document):
        if name in {"change_vm", "change_volume", "change_snapshot"}:
            # In a merge patch, null removes a label. It is said in a form that generators know.
            values = schema["properties"]["labels"]["additionalProperties"]
            assert values["type"] == ["string", "null"]
            values["type"] = "string"
        text = json.dumps(schema)
        for word in ('"null"', '"default"', "patternProperties", "anyOf"):
            assert word not in text, f"{name} has {word}"


async def test_the_keys_of_labels_have_a_form_that_generators_know(document: dict[str, Any]) -> None:
    labels = document["components"]["schemas"]["NewVM"]["properties"]["labels"]
    assert labels["additionalProperties"]["type"] == "string"
    assert re.compile(labels["propertyNames"]["pattern"]).search("app.kubernetes.io/name")
    assert not re.compile(labels["propertyNames"]["pattern"]).search("-env")


async def test_defaults_are_told_in_words(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["Reboot"]["properties"]["type"]["description"] == "Default: `SOFT`."
    listing = next(operation for operation in operations(document) if operation["operationId"] == "list_vms")
    described = {parameter["name"]: parameter["schema"].get("description", "") for parameter in listing["parameters"]}
    assert "Default: `20`." in described["page_size"]
    assert "Default: `-created_at`." in described["sort"]


async def test_an_action_whose_body_may_be_absent_names_one_schema(document: dict[str, Any]) -> None:
    body = document["paths"]["/api/v1/vms/{vm_id}/actions/reboot"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Reboot"}
    assert not body.get("required", False)


async def test_sets_of_words_are_shared_enums(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["ActionName"]["enum"]) == {action.word for action in Action}
    assert schemas["ProblemCode"]["enum"] == list(STATUS_OF_CODE)
    assert schemas["AttentionKind"]["enum"] == [str(kind) for kind in KINDS]
    assert schemas["Operation"]["properties"]["action"]["$ref"] == "#/components/schemas/ActionName"
    assert schemas["VM"]["properties"]["allowed_actions"]["items"] == {"$ref": "#/components/schemas/ActionName"}
    assert schemas["Problem"]["properties"]["code"]["$ref"] == "#/components/schemas/ProblemCode"
    assert schemas["Attention"]["properties"]["kind"]["$ref"] == "#/components/schemas/AttentionKind"


async def test_filters_by_status_and_action_offer_the_words_of_the_resource(document: dict[str, Any]) -> None:
    words = {}
    for operation in operations(document):
        for parameter in operation.get("parameters", []):
            if parameter["name"] in {"status", "action"}:
                words[operation["operationId"], parameter["name"]] = parameter["schema"]["items"]
    assert words["list_vms", "status"] == {"$ref": "#/components/schemas/Status"}
    assert words["list_operations", "action"] == {"$ref": "#/components/schemas/ActionName"}
    assert all("$ref" in schema for schema in words.values())


async def test_open_routes_say_that_they_need_no_token(document: dict[str, Any]) -> None:
    open_routes = {operation["operationId"] for operation in operations(document) if operation["security"] == []}
    assert open_routes == OPEN
    assert document["servers"] == [{"url": "/", "description": "This service"}]


async def test_every_answer_that_rate_limits_apply_to_tells_what_is_left(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            for answer in operation["responses"].values():
                is_told = {"RateLimit", "RateLimit-Policy"} <= set(answer["headers"])
                assert is_told is not path.startswith("/api/v1/health"), path


async def test_operations_and_tags_have_names_that_are_good_in_code(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    assert all(re.fullmatch("[a-z]+", tag) for tag in tags)
    for operation in operations(document):
        assert OPERATION_ID.fullmatch(operation["operationId"]), operation["operationId"]
        assert set(operation["tags"]) <= tags


async def test_an_answer_leads_to_the_requests_that_its_fields_can_fill(document: dict[str, Any]) -> None:
    created = document["paths"]["/api/v1/vms"]["post"]["responses"]["202"]["links"]
    links = {name: document["components"]["links"][name] for name in created}
    assert {"VM_get_vm", "VM_start_vm", "VM_delete_vm", "VM_get_operation"} <= set(links)
    assert links["VM_get_vm"]["parameters"] == {"vm_id": "$response.body#/id"}
    assert links["VM_get_operation"]["parameters"] == {"operation_id": "$response.body#/operation_id"}
    ids = {operation["operationId"] for operation in operations(document)}
    assert {link["operationId"] for link in document["components"]["links"].values()} <= ids


async def test_no_success_has_the_description_of_the_framework(document: dict[str, Any]) -> None:
    for operation in operations(document):
        for response in operation["responses"].values():
            assert response["description"] != "Successful Response"


@pytest.mark.parametrize("model", [requests.NewVM, requests.NewVMs, requests.NewInterface, requests.Resize])
async def test_the_example_of_a_body_that_cannot_have_all_fields_is_valid(model: type[BaseModel]) -> None:
    (example,) = model.model_json_schema()["examples"]
    assert model.model_validate(example)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/problems/not_found"])
async def test_other_requests_are_answered_while_the_document_is_made(
    app: FastAPI, anyone: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    answered, describe = threading.Event(), app.openapi

    def described_late() -> dict[str, Any]:
        assert answered.wait(10)
        return describe()

    monkeypatch.setattr(app, "openapi", described_late)
    documents = [asyncio.create_task(anyone.get(path)) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert (await anyone.get("/health/live")).status_code == 200
    answered.set()
    assert [(await document).status_code for document in documents] == [200, 200]
