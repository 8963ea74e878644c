"""Whatever is asked in whatever order, several at once: every state is legal, and both sides tell the same story.

A short slice runs with the tests; `make soak` runs it for ten minutes and more, and says how many steps that were.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.integration.anything import Step, World, check_end, lanes, until_all_has_ended
from tests.support.stack import Stack, log_in
from tests.support.truth import differences

EXAMPLES = int(os.environ.get("SOAK", "2"))
pytestmark = pytest.mark.timeout(600 + 60 * EXAMPLES)
QUICK = {f"MOCK_{verb}_DELAY": "0.05" for verb in ("BUILD", "START", "STOP", "REBOOT", "RESIZE", "DELETE", "SNAPSHOT")}
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
    """A stack of its own, whose cloud is quick and now and then fails a call that succeeds when it is repeated."""
    stack = Stack.at(tmp_path_factory.mktemp("anything"), **QUICK, **TRANSIENT)
    stack.start()
    yield stack
    stack.stop()


class Soak:
    """What has been done so far."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.answers: Counter[tuple[str, int]] = Counter()
        self.examples = 0


@pytest.fixture(scope="module")
def soak() -> Iterator[Soak]:
    """Says in the end what was done."""
    soak = Soak()
    yield soak
    seconds = time.monotonic() - soak.began
    print(f"\n{soak.examples} examples, {soak.answers.total()} steps in {seconds:.0f} s")  # noqa: T201 - the figures
    for action in sorted({action for action, _ in soak.answers}):
        codes = {code: count for (one, code), count in sorted(soak.answers.items()) if one == action}
        print(f"  {action:18} {codes}")  # noqa: T201


@given(walks=lanes)
@soaking
async def test_whatever_is_asked_ends_where_it_should(quick_stack: Stack, soak: Soak, walks: list[list[Step]]) -> None:
    async with log_in(quick_stack) as user:
        world = await World.begin(quick_stack, user)
        await asyncio.gather(*(world.walk(lane) for lane in walks))
        await until_all_has_ended(world)
        await check_end(world)
        assert await differences(quick_stack) == []
        for vm_id in world.vms:  # what was given is given back, so that the next example has it
            await user.request("DELETE", f"/vms/{vm_id}")
        await until_all_has_ended(world)
    assert await differences(quick_stack) == []
    soak.examples += 1
    soak.answers += world.answers
