"""Invalid bodies and parameters are refused with 422 and the name of the field, never with 5xx."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import FLAVOR, Person, pointers
from tests.support.rows import IMAGE_IDS, NETWORK_IDS

JSON = {"Content-Type": "application/json"}
NETWORK = str(NETWORK_IDS["private"])


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "#/name"),
        ({"name": " \t "}, "#/name"),
        ({"name": "\N{NO-BREAK SPACE}"}, "#/name"),
        ({"name": "x" * 256}, "#/name"),
        ({"name": "nul\0"}, "#/name"),
        ({"name": "two\nlines"}, "#/name"),
        ({"name": "c1 \x9b"}, "#/name"),
        ({"name": "half \ud800"}, "#/name"),
        ({"name": None}, "#/name"),
        ({"name": ["x"]}, "#/name"),
        ({"flavor_id": "m1.small"}, "#/flavor_id"),
        ({"flavor_id": None}, "#/flavor_id"),
        ({"flavor_id": 10**400}, "#/flavor_id"),
        ({"image_id": ""}, "#/image_id"),
        ({"network_ids": NETWORK}, "#/network_ids"),
        ({"network_ids": ["x"]}, "#/network_ids/0"),
        ({"network_ids": [NETWORK, NETWORK]}, "#/network_ids"),
        ({"network_ids": [None]}, "#/network_ids/0"),
        ({"labels": []}, "#/labels"),
        ({"labels": None}, "#/labels"),
        ({"labels": {f"k{n}": "" for n in range(65)}}, "#/labels"),
        ({"labels": {"key": "x" * 256}}, "#/labels/key"),
        ({"labels": {"key": "nul\0"}}, "#/labels/key"),
        ({"labels": {"key": "half \udfff"}}, "#/labels/key"),
        ({"labels": {"key": 1}}, "#/labels/key"),
        ({"labels": {"": "x"}}, "#/labels/"),
        ({"labels": {"-key": "x"}}, "#/labels/-key"),
        ({"labels": {"k" * 64: "x"}}, f"#/labels/{'k' * 64}"),
        ({"labels": {"half \ud800": "x"}}, "#/labels/half%20%EF%BF%BD%EF%BF%BD%EF%BF%BD"),
        ({"status": "ACTIVE"}, "#/status"),
        ({"half \ud800": 1}, "#"),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_an_invalid_field_of_a_new_vm_is_named(visitor: Person, change: dict[str, Any], pointer: str) -> None:
    body = json.dumps({"name": "x", "flavor_id": FLAVOR} | change)  # httpx cannot encode half of a surrogate pair
    answer = await visitor.http.post("/vms", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "validation_failed"
    assert pointers(answer.json()) == {pointer}


@pytest.mark.parametrize("body", ["null", "[]", '"x"', "7", "1e999", "{}"])
async def test_a_body_that_is_no_new_vm_is_refused(visitor: Person, body: str) -> None:
    answer = await visitor.http.post("/vms", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["code"] == "validation_failed"


async def test_the_longest_name_and_the_most_labels_are_accepted(ada: Person) -> None:
    labels = {"k" * 63: "v" * 255, "a/b.c_d-e": "", "0": "ünïcode ✓"} | {f"k{n}": "v" for n in range(61)}
    vm = await ada.create(f"  {'ñ' * 254}\N{PERSONAL COMPUTER}  ", labels=labels)
    assert vm["name"] == f"{'ñ' * 254}\N{PERSONAL COMPUTER}"
    assert vm["labels"] == labels
    assert (await ada.http.get(f"/vms/{vm['id']}")).json() == vm


async def test_every_unknown_id_in_the_body_is_named(visitor: Person) -> None:
    unknown = str(uuid4())
    body = {"name": "x", "flavor_id": unknown, "image_id": unknown, "network_ids": [NETWORK, unknown]}
    answer = await visitor.http.post("/vms", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_reference")
    assert pointers(answer.json()) == {"#/flavor_id", "#/image_id", "#/network_ids/1"}
    assert (await visitor.http.get("/vms", params={"status": "BUILDING"})).json()["total"] == 0


async def test_an_id_of_another_kind_of_resource_is_unknown(visitor: Person) -> None:
    image = str(IMAGE_IDS["debian-12"])
    answer = await visitor.http.post("/vms", json={"name": "x", "flavor_id": image})
    assert pointers(answer.json()) == {"#/flavor_id"}


@pytest.mark.parametrize("action", ["start", "stop", "reboot"])
@pytest.mark.parametrize("body", ["[]", "7", '{"force": true}', '{"type": "SIDEWAYS"}', '{"type": null}'])
async def test_an_invalid_body_of_an_action_is_refused(visitor: Person, action: str, body: str) -> None:
    answer = await visitor.http.post(f"/vms/{uuid4()}/actions/{action}", content=body, headers=JSON)
    assert answer.status_code == 422


@pytest.mark.parametrize("change", [{"name": None}, {"labels": []}, {"name": ""}, {"flavor_id": FLAVOR}], ids=str)
async def test_an_invalid_change_is_refused_and_changes_nothing(ada: Person, change: dict[str, Any]) -> None:
    vm = await ada.create()
    answer = await ada.http.patch(f"/vms/{vm['id']}", json=change)
    assert answer.status_code == 422
    assert (await ada.http.get(f"/vms/{vm['id']}")).json() == vm


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page", "0"),
        ("page", "-1"),
        ("page", "1000001"),
        ("page", "9" * 5000),
        ("page", "1.5"),
        ("page", ""),
        ("page_size", "0"),
        ("page_size", "101"),
        ("page_size", "9" * 30),
        ("cursor", ""),
        ("cursor", "garbage"),
        ("cursor", "ÿ"),
        ("cursor", "x" * 5000),
        ("sort", "size"),
        ("sort", "--name"),
        ("status", "RUNNING"),
        ("status", "active"),
        ("status", "ACTIVE,"),
        ("status", ""),
        ("name", ""),
        ("name", "nul\0"),
        ("name", "x" * 256),
        ("labels", ""),
        ("labels", "=x"),
        ("labels", "a=b,"),
        ("labels", "a=\0"),
        ("labels", "-a"),
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_an_invalid_query_parameter_is_named(visitor: Person, name: str, value: str) -> None:
    answer = await visitor.http.get("/vms", params={name: value})
    assert answer.status_code == 422, answer.text
    assert pointers(answer.json()) == {name}


@pytest.mark.parametrize("id", ["x", "%00", "%FF", "-1", "9" * 500])
async def test_an_id_that_is_no_uuid_is_refused(visitor: Person, id: str) -> None:
    for path in (f"/vms/{id}", f"/vms/{id}/operations", f"/operations/{id}", f"/flavors/{id}"):
        answer = await visitor.http.get(path)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["code"] == "wrong_format"


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"tab\t", "ümlaut".encode("latin-1")])
async def test_an_invalid_idempotency_key_is_refused(visitor: Person, key: bytes) -> None:
    answer = await visitor.http.delete(f"/vms/{uuid4()}", headers={b"Idempotency-Key": key})
    assert answer.status_code == 422
    assert pointers(answer.json()) == {"Idempotency-Key"}
