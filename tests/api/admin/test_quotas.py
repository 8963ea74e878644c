"""Admins see and set the quotas of any project."""

from typing import Any

import pytest

from tests.api.conftest import Person
from tests.api.vm_resources import NO_ID


async def test_an_admin_sets_limits_and_takes_them_back(ada: Person, root: Person) -> None:
    path = f"/admin/projects/{ada.user.id}/quotas"
    before = (await root.http.get(path)).json()
    changed = (await root.http.put(path, json={"vms": 2, "vcpus": 0})).json()
    assert changed == before | {"vms": {"limit": 2, "used": 0}, "vcpus": {"limit": None, "used": 0}}
    assert (await ada.http.get("/quotas")).json() == changed
    more = (await root.http.put(path, json={"snapshots": 1})).json()
    assert (more["vms"]["limit"], more["snapshots"]["limit"]) == (2, 1)
    reset = await root.http.put(path, json={"vms": None, "vcpus": None, "snapshots": None})
    assert reset.json() == before


async def test_only_an_admin_sets_limits(ada: Person) -> None:
    answer = await ada.http.put(f"/admin/projects/{ada.user.id}/quotas", json={"vms": 0})
    assert (answer.status_code, answer.json()["code"]) == (403, "admin_only")


async def test_limits_are_of_projects_that_exist(root: Person) -> None:
    for answer in (
        await root.http.get(f"/admin/projects/{NO_ID}/quotas"),
        await root.http.put(f"/admin/projects/{NO_ID}/quotas", json={"vms": 1}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "body", [{"vms": -1}, {"vms": 1.5}, {"vms": "1"}, {"vms": 2**53}, {"servers": 1}, {"vms": True}]
)
async def test_limits_are_whole_numbers(ada: Person, root: Person, body: dict[str, Any]) -> None:
    answer = await root.http.put(f"/admin/projects/{ada.user.id}/quotas", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
