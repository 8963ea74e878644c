"""What guests get and what they say: user data, which has the SSH keys, and consoles."""

from dataclasses import replace
from uuid import uuid4

from activities.backends.resources import Ref
from domain.rules.cloud_init import LARGEST
from tests.backends.contract.lab import Lab, refusal, refusals

LINES = 5


async def test_a_server_with_user_data_is_built_and_its_console_can_be_read(lab: Lab) -> None:
    vm = await lab.new_server(replace(lab.small, user_data=b"#cloud-config\npackages: [curl]\n"))
    log = await lab.backend.get_server_console_output(vm, LINES)
    assert len(log.split("\n")) <= LINES + 1  # the last line ends with a line feed, or does not
    # Not every cloud has consoles that one can use.
    assert await refusal(lab.backend.create_console(vm)) in [("not_supported_by_cloud", False), ("accepted", False)]


async def test_user_data_has_a_limit(lab: Lab) -> None:
    await lab.new_server(replace(lab.small, user_data=b"#" * LARGEST))
    call = lab.begin_server(replace(lab.small, user_data=b"#" * (LARGEST + 1)))
    assert await refusal(call) == ("bad_request", False)


async def test_a_server_that_is_not_there_or_not_ready_has_no_console(lab: Lab) -> None:
    building, _ = await lab.begin_server(lab.small)
    for vm in (Ref(uuid4()), Ref(uuid4(), str(uuid4())), building):
        refused = await refusals(
            lab.backend.get_server_console_output(vm, LINES),
            lab.backend.create_console(vm),
        )
        assert refused == [("no_console", False)] * 2
    await lab.delete(building)
