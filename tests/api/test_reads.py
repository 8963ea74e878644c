"""The catalogue, single operations, health, and the documentation."""

import re
from datetime import UTC, datetime
from html import unescape
from ipaddress import ip_network
from operator import itemgetter
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from api import VERSION
from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.rules.states import Action, OperationStatus, TaskState
from domain.settings import Settings
from domain.temporal import register_search_attributes
from tests.api.conftest import Person, client_of, running
from tests.conftest import make_settings
from tests.meta.test_migrations import new_namespace, settings_of
from tests.support.rows import add_operation, add_vm


async def items(ada: Person, path: str) -> list[dict[str, Any]]:
    """The items of the first page."""
    page: list[dict[str, Any]] = (await ada.http.get(path)).json()["items"]
    return page


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the catalogue as the API shows it; a network has all its addresses free."""
    addresses = list(ip_network(row["cidr"]).hosts())[1:] if "cidr" in row else []  # the gateway has one
    row = {name: value for name, value in row.items() if name != "allocates"}
    row |= {"id": str(row["id"]), "is_available": True}
    return row | ({"free_addresses": len(addresses)} if addresses else {})


async def test_flavors_are_listed_smallest_first(ada: Person) -> None:
    size = ("vcpus", "ram_mb", "disk_gb", "name")
    expected = sorted(FLAVORS, key=lambda row: [row[column] for column in size])
    assert await items(ada, "/flavors") == [shown(row) for row in expected]


@pytest.mark.parametrize(("path", "rows"), [("/images", IMAGES), ("/networks", NETWORKS)])
async def test_images_and_networks_are_listed_by_name(ada: Person, path: str, rows: list[dict[str, Any]]) -> None:
    assert await items(ada, path) == [shown(row) for row in sorted(rows, key=lambda row: str(row["name"]))]


@pytest.mark.parametrize(("path", "rows"), [("/flavors", FLAVORS), ("/images", IMAGES), ("/networks", NETWORKS)])
async def test_flavors_images_and_networks_can_be_read_by_id(
    ada: Person, path: str, rows: list[dict[str, Any]]
) -> None:
    for row in rows:
        assert (await ada.http.get(f"{path}/{row['id']}")).json() == shown(row)


async def test_an_operation_shows_its_progress_and_why_it_failed(
    ada: Person, bob: Person, engine: AsyncEngine, settings: Settings
) -> None:
    now = datetime.now(UTC)
    fault = {"code": "no_valid_host", "message": "No host has room."}
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        result: dict[str, Any] = {"status": OperationStatus.FAILED, "error": fault}
        progress: dict[str, Any] = {"step": TaskState.REBOOTING_HARD, "progress": 0, "started_at": now}
        attempts: dict[str, Any] = {"attempt": 3, "last_error": "timed out"}
        failed = await add_operation(tx, vm, Action.REBOOT_HARD, **result, **progress, **attempts)
        retrying = await add_operation(tx, vm, Action.STOP, attempt=1, last_error="timed out", next_retry_at=now)
    operation = (await ada.http.get(f"/operations/{failed.id}")).json()
    workflows = f"{settings.temporal_ui_url}/namespaces/default/workflows"
    assert operation == {
        "id": str(failed.id),
        "project_id": str(ada.user.id),
        "action": "reboot",
        "status": "FAILED",
        "resource_type": "vm",
        "resource_id": str(vm.id),
        "vm_id": str(vm.id),
        "parameters": {"type": "HARD"},
        "step": "rebooting_hard",
        "progress": 0,
        "attempt": 3,
        "last_error": "timed out",
        "next_retry_at": None,
        "error": fault,
        "cancel_requested_at": None,
        "cancel_requested_by": None,
        "request_id": "test-request",
        "actor": "test",
        "workflow_id": failed.workflow_id,
        "temporal_url": f"{workflows}/{failed.workflow_id}",
        "retry_of": None,
        "created_at": operation["created_at"],
        "started_at": now.isoformat().replace("+00:00", "Z"),
        "finished_at": operation["finished_at"],
    }
    shown_retrying = (await ada.http.get(f"/operations/{retrying.id}")).json()
    assert (shown_retrying["status"], shown_retrying["error"], shown_retrying["finished_at"]) == ("RUNNING", None, None)
    assert shown_retrying["next_retry_at"] == operation["started_at"]
    listed = (await ada.http.get(f"/vms/{vm.id}/operations")).json()["items"]
    assert sorted(listed, key=itemgetter("id")) == sorted([operation, shown_retrying], key=itemgetter("id"))
    assert (await bob.http.get(f"/operations/{failed.id}")).status_code == 404


async def test_health_needs_no_token(anyone: httpx.AsyncClient) -> None:
    health = (await anyone.get("/health")).json()
    assert health == {"status": "ok", "name": "OpenStack VM API", "version": VERSION}
    assert (await anyone.get("/health/live")).json() == {"status": "alive"}


async def test_readiness_names_the_service_that_is_unavailable(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.get("/health/ready")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, "not_ready")
    assert (problem["checks"]["postgres"]["status"], problem["checks"]["temporal"]["status"]) == ("ok", "unavailable")
    assert problem["detail"] == "Not ready: temporal; `checks` says why."
    assert answer.headers["Retry-After"] == "1"


async def test_ready_needs_the_configured_namespace_in_temporal(settings: Settings, temporal: Client) -> None:
    address = temporal.service_client.config.target_host
    for namespace, status in ((temporal.namespace, 200), ("nowhere", 503)):
        with_temporal = make_settings(settings.database_url, temporal_address=address, temporal_namespace=namespace)
        async with running(with_temporal) as app:
            answer = await client_of(app).get("/health/ready")
        assert answer.status_code == status
    assert answer.json()["checks"]["temporal"]["status"] == "unavailable"


async def test_not_ready_until_temporal_knows_the_search_attributes(settings: Settings, temporal: Client) -> None:
    """Without them Temporal refuses to start any workflow."""
    namespace = await new_namespace(temporal)
    async with running(settings_of(settings.database_url, namespace)) as app:
        answer = await client_of(app).get("/health/ready")
        checks = answer.json()["checks"]
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert (checks["postgres"]["status"], checks["temporal"]["status"]) == ("ok", "unavailable")
        assert "python -m migrations: VM, VMName, Resource, Owner, Action, WaitsFor" in checks["temporal"]["error"]
        await register_search_attributes(namespace)
        assert (await client_of(app).get("/health/ready")).status_code == 200


async def test_the_documentation_page_loads_nothing_from_other_hosts(anyone: httpx.AsyncClient) -> None:
    page = await anyone.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 5
    links += re.findall(r'"url": "([^"]+)"', unescape(page.text))
    assert len(links) == 6
    for link in links:
        assert link.startswith("/api/v1/")
        assert (await anyone.get(f"http://api{link}")).status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text


async def test_the_openapi_document_is_complete_and_names_everything(app: FastAPI) -> None:
    document = app.openapi()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids) == len(operations)
    assert all("vm" not in operation["summary"].split() for operation in operations)
    schemas = document["components"]["schemas"]
    assert "ValidationError" not in str(schemas)
    assert {"VMPage", "OperationPage", "Problem"} <= set(schemas)
    for operation in operations:
        for status, response in operation["responses"].items():
            assert "X-Request-Id" in response["headers"]
            assert (list(response.get("content", {})) == ["application/problem+json"]) is (int(status) >= 400)
