"""Consoles of servers, as far as a cloud has them: what they have shown, and the address of a page to use one."""

from collections.abc import Mapping
from typing import Any, Final

from activities.backends.openstack.base import OpenStackParts
from activities.backends.openstack.bodies import UnreadableError
from activities.backends.openstack.errors import CloudError, Service
from activities.backends.protocol import BackendError
from activities.backends.resources import Console, Ref
from domain.rules.console import NO_CONSOLE

# Nova has no list of what a cloud offers. A cloud has one of these as a rule, and the first is by far the commonest.
_KINDS: Final = (("vnc", "novnc"), ("spice", "spice-html5"), ("mks", "webmks"), ("serial", "serial"))
_TIMEOUT: Final = 8.0  # seconds; a host that is down does not answer before a minute has passed
_BAD_REQUEST, _CONFLICT = 400, 409
_BUSY: Final = "InstanceInvalidState"  # the 500 that Nova answers for a server that is being deleted, for example


class OpenStackConsoles(OpenStackParts):
    """Consoles. Nothing here changes a server, so no call needs a token."""

    async def get_server_console_output(self, vm: Ref, lines: int) -> str:
        # Nova counts the lines from the end.
        body = await self._ask_console(vm, "action", {"os-getConsoleOutput": {"length": lines}})
        return _text(body, "output")

    async def create_console(self, vm: Ref) -> Console:
        for protocol, kind in _KINDS:
            wish = {"remote_console": {"protocol": protocol, "type": kind}}
            try:
                body = await self._ask_console(vm, "remote-consoles", wish)
            except CloudError as error:
                if error.status == _BAD_REQUEST:
                    continue  # "Unavailable console type"
                raise
            console = body.get("remote_console") or {}
            return Console(_text(console, "type"), _text(console, "url"))
        message = "This cloud has no consoles that one can use from outside, only their logs."
        raise BackendError("not_supported_by_cloud", message, retryable=False)

    async def _ask_console(self, vm: Ref, path: str, body: object) -> Mapping[str, Any]:
        id = await self._server_id(vm)
        if id is None:
            raise BackendError(NO_CONSOLE, "The cloud has no server for this VM.", retryable=False)
        try:
            value = await self._cloud.run(self._post, f"/servers/{id}/{path}", body)
        except CloudError as error:
            if error.code == "not_found" or error.status == _CONFLICT or _BUSY in str(error):
                raise BackendError(NO_CONSOLE, str(error), retryable=False) from None
            if error.code == "forbidden":
                raise BackendError("not_supported_by_cloud", str(error), retryable=False) from None
            raise
        return value if isinstance(value, Mapping) else {}

    def _post(self, path: str, body: object) -> Any:
        return self._cloud.request(Service.COMPUTE, "POST", path, body=body, timeout=_TIMEOUT).value


def _text(body: Mapping[str, Any], name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str):
        message = f"`{name}` of a console is not there"
        raise UnreadableError(message)
    return text
