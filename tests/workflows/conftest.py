"""A scripted world on the server that `--temporal` names."""

from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

import local
from tests.workflows.world import World


@pytest.fixture(scope="session")
async def skipping(request: pytest.FixtureRequest) -> AsyncIterator[WorkflowEnvironment]:
    """The time-skipping server; the dev server where `--temporal dev` is given."""
    if request.config.getoption("--temporal") == "dev":
        yield request.getfixturevalue("temporal_environment")
        return
    server = local.TEMPORAL.replace("temporal", "temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=server) as environment:
        yield environment


@pytest.fixture
async def world(skipping: WorkflowEnvironment) -> AsyncIterator[World]:
    """Every activity, recorded and scripted, with workers of all workflows."""
    async with World(skipping.client) as world:
        yield world
