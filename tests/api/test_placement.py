"""Security groups and availability zones: their lists, and new VMs that ask for them."""

import hashlib
import json
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.accounts import IdempotencyKey
from domain.data.models import VM, Operation
from domain.data.placement import AvailabilityZone, SecurityGroup
from domain.data.seeds import SECURITY_GROUPS
from tests.api.conftest import FLAVOR, Person, count, operations_of, pointers
from tests.api.vm_resources import rows_of

DEFAULT, WEB = (str(group["id"]) for group in SECURITY_GROUPS)


async def add_group(engine: AsyncEngine, name: str, **values: Any) -> str:
    """Add a security group, as a real cloud may have it, and return its id."""
    id = uuid4()
    async with engine.begin() as tx:
        await tx.execute(insert(SecurityGroup).values(id=id, name=name, description="", **values))
    return str(id)


async def refusal(ada: Person, **body: Any) -> dict[str, Any]:
    """The problem of a create that is refused."""
    answer = await ada.http.post("/vms", json={"name": "web", "flavor_id": FLAVOR} | body)
    assert answer.status_code == 422, answer.text
    problem: dict[str, Any] = answer.json()
    return problem


async def test_the_mock_has_two_security_groups_and_one_availability_zone(ada: Person) -> None:
    groups = (await ada.http.get("/security-groups")).json()
    assert [group["name"] for group in groups["items"]] == ["default", "web"]
    assert all(set(group) == {"id", "name", "description", "is_available"} for group in groups["items"])
    assert (await ada.http.get(f"/security-groups/{WEB}")).json() == groups["items"][1]
    zones = (await ada.http.get("/availability-zones")).json()
    assert (zones["items"], zones["total"]) == ([{"name": "nova"}], 1)


async def test_a_group_that_went_away_is_in_no_list_and_stays_readable(ada: Person, engine: AsyncEngine) -> None:
    gone = await add_group(engine, "old", is_available=False)
    assert gone not in {group["id"] for group in (await ada.http.get("/security-groups")).json()["items"]}
    found = await ada.http.get(f"/security-groups/{gone}")
    assert (found.status_code, found.json()["is_available"]) == (200, False)
    assert (await ada.http.get(f"/security-groups/{uuid4()}")).json()["code"] == "not_found"


async def test_a_vm_shows_what_its_request_asked_for(ada: Person, engine: AsyncEngine) -> None:
    wishes: dict[str, Any] = {"availability_zone": "nova", "security_groups": ["web", "default"]}
    vm = await ada.create(**wishes)
    assert vm | wishes == vm
    assert (await ada.http.get(f"/vms/{vm['id']}")).json() == vm
    assert (await ada.http.get("/vms")).json()["items"] == [vm]
    (operation,) = await operations_of(engine, vm["id"])
    assert operation.input | wishes == operation.input
    (row,) = await rows_of(engine, VM)
    assert row.security_groups == [{"id": WEB, "name": "web"}, {"id": DEFAULT, "name": "default"}]


async def test_a_vm_whose_request_says_nothing_leaves_both_to_the_cloud(ada: Person, engine: AsyncEngine) -> None:
    vm = await ada.create(availability_zone=None, security_groups=None)
    assert (vm["availability_zone"], vm["security_groups"]) == (None, None)
    (operation,) = await operations_of(engine, vm["id"])
    assert not operation.input.keys() & {"availability_zone", "security_groups", "ip_addresses"}


async def test_a_group_is_named_by_its_name_or_by_its_id_and_counts_once(ada: Person, engine: AsyncEngine) -> None:
    assert (await ada.create(security_groups=[WEB, "web"]))["security_groups"] == ["web"]
    twin = await add_group(engine, "web")
    assert (await ada.create(security_groups=[twin.upper()]))["security_groups"] == ["web"]
    rows = await rows_of(engine, VM)
    assert {row.security_groups[0]["id"] for row in rows if row.security_groups} == {WEB, twin}


async def test_an_id_comes_before_a_group_that_has_it_as_its_name(ada: Person, engine: AsyncEngine) -> None:
    """As in Nova."""
    await add_group(engine, WEB)
    await ada.create(security_groups=[WEB])
    (row,) = await rows_of(engine, VM)
    assert row.security_groups == [{"id": WEB, "name": "web"}]


async def test_a_name_that_several_groups_have_is_refused(ada: Person, engine: AsyncEngine) -> None:
    twin = await add_group(engine, "web")
    problem = await refusal(ada, security_groups=["default", "web"])
    assert (problem["code"], pointers(problem)) == ("ambiguous_name", {"#/security_groups/1"})
    assert problem["errors"][0]["candidates"] == sorted([WEB, twin])
    assert "by its id" in problem["errors"][0]["detail"]


async def test_all_that_does_not_exist_is_named_at_once(ada: Person, engine: AsyncEngine) -> None:
    gone = await add_group(engine, "old", is_available=False)
    async with engine.begin() as tx:
        await tx.execute(update(AvailabilityZone).values(is_available=False))
    body = {"availability_zone": "nova", "security_groups": ["web", "old", gone, "new"], "network_ids": [str(uuid4())]}
    problem = await refusal(ada, **body)
    places = {"availability_zone", "security_groups/1", "security_groups/2", "security_groups/3", "network_ids/0"}
    assert (problem["code"], pointers(problem)) == ("unknown_reference", {f"#/{place}" for place in places})
    assert (await count(engine, VM), await count(engine, Operation)) == (0, 0)


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"security_groups": []}, "#/security_groups", "too_short"),
        ({"security_groups": ["web", "web"]}, "#/security_groups", "repeated_items"),
        ({"security_groups": ["x"] * 17}, "#/security_groups", "too_long"),
        ({"security_groups": [""]}, "#/security_groups/0", "too_short"),
        ({"security_groups": ["nul\0"]}, "#/security_groups/0", "wrong_format"),
        ({"security_groups": "web"}, "#/security_groups", "wrong_type"),
        ({"availability_zone": ""}, "#/availability_zone", "too_short"),
        ({"availability_zone": "x" * 256}, "#/availability_zone", "too_long"),
        ({"availability_zone": ["nova"]}, "#/availability_zone", "wrong_type"),
    ],
    ids=str,
)
async def test_an_invalid_wish_is_named(visitor: Person, body: dict[str, Any], pointer: str, code: str) -> None:
    problem = await refusal(visitor, **body)
    assert problem["code"] == "validation_failed"
    assert {(error["pointer"], error["code"]) for error in problem["errors"]} == {(pointer, code)}


async def test_a_key_of_a_version_without_these_fields_still_gets_its_first_answer(
    ada: Person, engine: AsyncEngine
) -> None:
    """The fingerprint is the one that such a version made of the body."""
    key = {"Idempotency-Key": "before the upgrade"}
    body = {"name": "web", "flavor_id": FLAVOR}
    first = await ada.http.post("/vms", json=body, headers=key)
    (kept,) = await rows_of(engine, IdempotencyKey)
    fields: dict[str, Any] = {"flavor_id": FLAVOR, "image_id": None, "labels": {}, "name": "web", "network_ids": None}
    assert kept.fingerprint == hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    again = await ada.http.post("/vms", json=body | {"security_groups": None}, headers=key)
    assert again.json() == first.json()
    other = await ada.http.post("/vms", json=body | {"security_groups": ["web"]}, headers=key)
    assert other.json()["code"] == "idempotency_key_reused"
