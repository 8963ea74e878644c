"""The comparison of OpenAPI documents finds what breaks clients and nothing else; the present one breaks none."""

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.contract import compatibility
from tests.contract.compatibility import breaks

Document = dict[str, Any]
Change = Callable[[Document], object]
OLD: Document = json.loads(compatibility.RELEASED.read_text())
RESIZE = "POST /api/v1/vms/{vm_id}/actions/resize"
LIST = "GET /api/v1/vms"


def operation(document: Document, name: str) -> Document:
    method, path = name.split()
    found: Document = document["paths"][path][method.lower()]
    return found


def schema(document: Document, name: str) -> Document:
    found: Document = document["components"]["schemas"][name]
    return found


def parameter(document: Document, name: str) -> Document:
    found: Document = next(each for each in operation(document, LIST)["parameters"] if each["name"] == name)
    return found


def found_after(change: Change) -> list[str]:
    new = copy.deepcopy(OLD)
    change(new)
    return breaks(OLD, new)


BREAKS: dict[str, Change] = {
    "POST /api/v1/vms/{vm_id}/actions/resize: gone": lambda new: new["paths"].pop("/api/v1/vms/{vm_id}/actions/resize"),
    "operationId was list_vms, is get_vms": lambda new: operation(new, LIST).update(operationId="get_vms"),
    "tags was ['vms'], is ['servers']": lambda new: operation(new, LIST).update(tags=["servers"]),
    "GET /api/v1/health: needs a token now": lambda new: operation(new, "GET /api/v1/health").update(
        security=[{"HTTPBearer": []}]
    ),
    "parameter name: gone": lambda new: operation(new, LIST)["parameters"].remove(parameter(new, "name")),
    "parameter sort: is required now": lambda new: parameter(new, "sort").update(required=True),
    "parameter zone: is new and required": lambda new: operation(new, LIST)["parameters"].append(
        {"in": "query", "name": "zone", "required": True, "schema": {"type": "string"}}
    ),
    "parameter sort: -name is refused now": lambda new: parameter(new, "sort")["schema"]["enum"].remove("-name"),
    "parameter page: maximum was 1000000, is 10": lambda new: parameter(new, "page")["schema"].update(maximum=10),
    "POST /api/v1/vms: body.image_id: string is refused now": lambda new: schema(new, "NewVM")["properties"].update(
        image_id={"type": "integer"}
    ),
    "POST /api/v1/vms: body: labels is refused now": lambda new: schema(new, "NewVM")["properties"].pop("labels"),
    "POST /api/v1/vms: body: labels is required now": lambda new: schema(new, "NewVM")["required"].append("labels"),
    "POST /api/v1/vms/{vm_id}/actions/reboot: body: is required now": lambda new: operation(
        new, "POST /api/v1/vms/{vm_id}/actions/reboot"
    )["requestBody"].update(required=True),
    "POST /api/v1/volumes: body.name: minLength was 1, is 9": lambda new: schema(new, "NewVolume")["properties"][
        "name"
    ].update(minLength=9),
    "parameter labels[]: pattern has changed": lambda new: parameter(new, "labels")["schema"]["items"].update(
        pattern="a"
    ),
    "answer 202: gone": lambda new: operation(new, RESIZE)["responses"].pop("202"),
    "answer 202: header Operation-Location is gone": lambda new: operation(new, RESIZE)["responses"]["202"][
        "headers"
    ].pop("Operation-Location"),
    "answer 202: fault is gone": lambda new: schema(new, "VM")["properties"].pop("fault"),
    "answer 202: labels may be absent now": lambda new: schema(new, "VM")["required"].remove("labels"),
    "answer 202.name: may be null now": lambda new: schema(new, "VM")["properties"].update(
        name={"anyOf": [{"type": "string"}, {"type": "null"}]}
    ),
    "answer 202.status: may be SHELVED now": lambda new: schema(new, "Status")["enum"].append("SHELVED"),
}


@pytest.mark.parametrize("line", BREAKS)
def test_a_change_that_breaks_clients_is_found(line: str) -> None:
    found = found_after(BREAKS[line])
    assert any(each.endswith(line) for each in found), found


def test_a_shared_schema_with_another_name_is_found() -> None:
    new = json.loads(json.dumps(OLD).replace('schemas/Flavor"', 'schemas/Size"').replace('"Flavor": {', '"Size": {'))
    assert breaks(OLD, new) == ["schema Flavor: gone"]


def _grow(new: Document) -> None:
    new["paths"]["/api/v1/new"] = new["paths"]["/api/v1/flavors"]
    schema(new, "VM")["properties"]["addresses"] = {"type": "array", "items": {"type": "string"}}
    schema(new, "VM")["required"].append("addresses")
    schema(new, "NewVM")["properties"]["zone"] = {"type": "string"}
    schema(new, "NewVM")["required"].remove("flavor_id")
    schema(new, "ProblemCode")["enum"].append("teapot")
    schema(new, "Reboot")["properties"]["type"]["enum"].append("FIRM")
    operation(new, LIST)["parameters"].append({"in": "query", "name": "zone", "schema": {"type": "string"}})
    operation(new, LIST)["responses"]["418"] = {"description": "A teapot"}
    parameter(new, "page")["schema"]["maximum"] *= 2


@pytest.mark.parametrize("change", [lambda _new: None, _grow], ids=["the same", "more"])
def test_what_only_adds_breaks_nothing(change: Change) -> None:
    assert found_after(change) == []


def test_the_present_document_breaks_no_client_of_the_last_release() -> None:
    assert compatibility.differences() == []


def test_an_accepted_break_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    accepted = tmp_path / "accepted.txt"
    accepted.write_text("# a comment\nGET /api/v1/vms: gone\n")
    monkeypatch.setattr(compatibility, "ACCEPTED", accepted)
    monkeypatch.setattr(compatibility, "breaks", partial(lambda *_: ["GET /api/v1/images: gone"]))
    assert compatibility.differences() == [
        "breaks clients: GET /api/v1/images: gone",
        "does not break clients any more: GET /api/v1/vms: gone",
    ]
