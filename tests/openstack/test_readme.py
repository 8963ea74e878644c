"""The README's commands run on a real cloud as they are written."""

import asyncio

import pytest

from tests.integration.test_readme import CREATE_AND_WAIT, WALK_THROUGH, answers, run
from tests.support.stack import Stack


@pytest.mark.usefixtures("user")  # when there is one, a worker has read what the cloud offers
async def test_the_walk_through_runs_as_written(stack: Stack) -> None:
    done = await asyncio.to_thread(run, stack, CREATE_AND_WAIT + WALK_THROUGH)
    assert done.returncode == 0, done.stderr
    *_, refused, deleting, freed, operations = answers(done)
    assert refused["code"] == "invalid_transition"
    assert deleting["status"] in {"DELETING", "DELETED"}
    assert (freed["status"], freed["vm_id"]) == ("AVAILABLE", None)
    assert {operation["status"] for operation in operations["items"]} <= {"SUCCEEDED", "SUPERSEDED"}
    assert len(operations["items"]) == 8
