"""The command on the server reaches the database of a running `make up`."""

from tests.support.stack import Stack
from tests.support.users import User


async def test_a_user_of_a_running_stack_becomes_an_admin(stack: Stack, user: User) -> None:
    profile = await user.read("/auth/me")
    assert profile["role"] == "user"
    stack.grant(profile["username"])
    assert (await user.read("/auth/me"))["role"] == "admin"
    assert (await user.read("/admin/attention"))["page"] == 1
