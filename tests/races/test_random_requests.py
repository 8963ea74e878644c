"""Random concurrent requests: every answer is as specified, and at the end the database and the cloud agree.

The tests run a short slice; `make soak` runs more than ten minutes of it and prints the number of steps.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.model import check_end
from tests.support.random_walk import Step, Walker, lanes
from tests.support.stack import QUICK_CLOUD, Stack
from tests.support.truth import differences
from tests.support.users import log_in

EXAMPLES = int(os.environ.get("SOAK", "2"))
pytestmark = pytest.mark.timeout(600 + 60 * EXAMPLES)
TRANSIENT = {"MOCK_TRANSIENT_RATE": "0.02"}

soaking = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def quick_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a fast cloud that sometimes fails a call; repeating the call succeeds."""
    stack = Stack.at(tmp_path_factory.mktemp("random"), **QUICK_CLOUD, **TRANSIENT)
    stack.start()
    yield stack
    stack.stop()


class Soak:
    """The figures of all examples so far."""

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self.answers: Counter[tuple[str, int]] = Counter()
        self.examples = 0


@pytest.fixture(scope="module")
def soak() -> Iterator[Soak]:
    """Prints the figures at the end."""
    soak = Soak()
    yield soak
    seconds = time.monotonic() - soak.started_at
    print(f"\n{soak.examples} examples, {soak.answers.total()} steps in {seconds:.0f} s")  # noqa: T201 - the figures
    for action in sorted({action for action, _ in soak.answers}):
        codes = {code: count for (name, code), count in sorted(soak.answers.items()) if name == action}
        print(f"  {action:18} {codes}")  # noqa: T201


@given(walks=lanes)
@soaking
async def test_random_requests_end_as_the_model_expects(
    quick_stack: Stack, soak: Soak, walks: list[list[Step]]
) -> None:
    async with log_in(quick_stack) as user:
        walker = await Walker.begin(quick_stack, user)
        await asyncio.gather(*(walker.walk(lane) for lane in walks))
        await user.until_nothing_open()
        await check_end(quick_stack, UUID(walker.vms[0]))
        assert await differences(quick_stack) == []
        for vm_id in walker.vms:  # so that the next example has the addresses again
            await user.request("DELETE", f"/vms/{vm_id}")
        await user.until_nothing_open()
    assert await differences(quick_stack) == []
    soak.examples += 1
    soak.answers += walker.answers
