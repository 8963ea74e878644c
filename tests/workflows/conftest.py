"""A scripted world on the Temporal server that `--temporal` selects."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.testing import WorkflowEnvironment

from domain import search_attributes
from migrations import embedded_temporal
from tests.workflows.world import World

KINDS = {key.name: IndexedValueType.ValueType(int(key.indexed_value_type)) for key in search_attributes.ALL}


@pytest.fixture(scope="session")
async def time_skipping_environment() -> AsyncIterator[WorkflowEnvironment]:
    """Start the time-skipping server."""
    server = str(Path(embedded_temporal.TEMPORAL).with_name("temporal-test-server"))
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=server) as environment:
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=environment.client.namespace, search_attributes=KINDS)
        )
        yield environment


@pytest.fixture(scope="session")
def workflow_environment(request: pytest.FixtureRequest) -> WorkflowEnvironment:
    """Return the server that workflow tests run on. Not a coroutine, because it selects one of two that are."""
    dev = request.config.getoption("--temporal") == "dev"
    environment: WorkflowEnvironment = request.getfixturevalue(
        "temporal_environment" if dev else "time_skipping_environment"
    )
    return environment


@pytest.fixture
async def world(workflow_environment: WorkflowEnvironment) -> AsyncIterator[World]:
    """Run workers of all workflows, with every activity scripted and recorded."""
    async with World(workflow_environment) as world:
        yield world
