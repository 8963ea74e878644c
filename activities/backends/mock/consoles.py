"""The mock cloud's consoles: each has shown a boot, with the SSH keys and the user data that cloud-init got."""

import email
from collections.abc import Iterator
from typing import Final

from activities.backends.mock.calls import MockCalls, lock_server
from activities.backends.protocol import BackendError
from activities.backends.resources import Console, Ref
from domain.rules import cloud_init
from domain.rules.cloud import ServerStatus
from domain.rules.console import NO_CONSOLE

_NOT_READY: Final = "The server is not ready: it is being built."


class MockConsoles(MockCalls):
    """Consoles."""

    async def get_server_console_output(self, vm: Ref, lines: int) -> str:
        name, user_data = await self._booted(vm)
        log = [f"Booting {name} in the mock cloud", *_shown(user_data or b""), f"{name} login:"]
        return "\n".join("\n".join(log).split("\n")[-lines:])

    async def create_console(self, vm: Ref) -> Console:
        await self._booted(vm)
        message = "The mock cloud has no consoles that one can use from outside, only their logs."
        raise BackendError("not_supported_by_cloud", message, retryable=False)

    async def _booted(self, vm: Ref) -> tuple[str, bytes | None]:
        """Return the name and the user data of a server that has been built; BackendError as Nova has it."""
        try:
            async with self._engine.begin() as tx:
                server = await lock_server(tx, vm)
        except BackendError as error:
            raise BackendError(NO_CONSOLE, str(error), retryable=False) from None
        if server.status == ServerStatus.BUILD:
            raise BackendError(NO_CONSOLE, _NOT_READY, retryable=False)
        return server.name, server.user_data


def _shown(document: bytes) -> Iterator[str]:
    """Yield what the guest says of each part of what cloud-init got: its type, and then all of it."""
    text = document.decode()
    if not cloud_init.is_mime(text):
        if text:
            yield f"cloud-init: user data\n{text}"
        return
    try:
        parts = list(email.message_from_string(text).walk())
    except RecursionError:
        yield "cloud-init: the message is nested too deeply"
        return
    for part in parts:
        content = part.get_payload(decode=True)
        if isinstance(content, bytes):
            yield f"cloud-init: {part.get_content_type()}\n{content.decode(errors='replace')}"
