# Generated from aio/admin.py by `python -m tests.vmctl.generated`.

"""What only admins may do with users and projects, and the audit."""

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from vmctl.client.errors import answer_of
from vmctl.client.models import Account, Quotas, SecurityEvent
from vmctl.client.requests import QuotaChanges, RoleChange
from vmctl.client.sending import Filter
from vmctl.client.service import name_in_path
from vmctl.client.sync.collections import Id
from vmctl.client.sync.transport import Transport


class Admin:
    """Users, the audit, and the quotas of any project."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def users(self, **filters: Filter) -> Iterator[Account]:
        """Yield all users, oldest first."""
        return self._transport.items("/admin/users", Account, filters)

    def disable(self, username: str) -> Account:
        """Keep a user out. What the user has stays."""
        return self._change_user(username, "disable", None)

    def enable(self, username: str) -> Account:
        """Let a disabled user in again."""
        return self._change_user(username, "enable", None)

    def change_role(self, username: str, **fields: Unpack[RoleChange]) -> Account:
        """Make a user an admin, or an admin a user."""
        return self._change_user(username, "role", fields)

    def audit(self, **filters: Filter) -> Iterator[SecurityEvent]:
        """Yield security events, newest first."""
        return self._transport.items("/admin/audit", SecurityEvent, filters)

    def quotas(self, project_id: Id) -> Quotas:
        """Read how much any project may have, and has."""
        return self._transport.get(f"/admin/projects/{project_id}/quotas", Quotas)

    def set_quotas(self, project_id: Id, **fields: Unpack[QuotaChanges]) -> Quotas:
        """Set limits of a project. 0 means no limit, and None the default of the service."""
        response = self._transport.send("PUT", f"/admin/projects/{project_id}/quotas", body=fields)
        return answer_of(response, Quotas)

    def _change_user(self, username: str, action: str, body: Mapping[str, Any] | None) -> Account:
        path = f"/admin/users/{name_in_path(username)}/{action}"
        response = self._transport.send("POST", path, body=body)
        return answer_of(response, Account)
