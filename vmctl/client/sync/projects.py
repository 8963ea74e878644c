# Generated from aio/projects.py by `python -m tests.vmctl.generated`.

"""Projects, their members and their quotas."""

from collections.abc import Iterator
from typing import Unpack

from vmctl.client.errors import answer_of
from vmctl.client.models import Member, Project, Quotas
from vmctl.client.requests import Membership, NewProject
from vmctl.client.service import name_in_path
from vmctl.client.sync.collections import Collection, Id
from vmctl.client.sync.transport import Transport


class Projects(Collection[Project]):
    """The projects of which you are a member."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/projects", Project)

    def create(self, *, idempotency_key: str | None = None, **fields: Unpack[NewProject]) -> Project:
        """Make a project, which you own."""
        response = self.transport.send("POST", "/projects", body=fields, key=idempotency_key)
        return answer_of(response, Project)

    def delete(self, id: Id) -> None:
        """Delete a project that is empty."""
        self.transport.send("DELETE", f"/projects/{id}")

    def members(self, id: Id) -> Iterator[Member]:
        """Yield the members of a project, by name."""
        return self.transport.items(f"/projects/{id}/members", Member, {})

    def set_member(self, id: Id, username: str, **fields: Unpack[Membership]) -> Member:
        """Make a user a member, or change the member's role."""
        response = self.transport.send("PUT", _member(id, username), body=fields)
        return answer_of(response, Member)

    def remove_member(self, id: Id, username: str) -> None:
        """End a membership. Every member can end the own one."""
        self.transport.send("DELETE", _member(id, username))

    def quotas(self, id: Id | None = None) -> Quotas:
        """Read how much a project may have, and has; by default your personal one."""
        return self.transport.get("/quotas", Quotas, project_id=id)


def _member(id: Id, username: str) -> str:
    return f"/projects/{id}/members/{name_in_path(username)}"
