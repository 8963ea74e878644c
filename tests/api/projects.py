"""Projects with members, for tests."""

from typing import Any
from uuid import UUID

from tests.api.conftest import Person


async def project_of(creator: Person, name: str = "web-shop", **roles: Person) -> UUID:
    """A new project of the owner, with the people as its members; the keywords are their roles."""
    answer = await creator.http.post("/projects", json={"name": name})
    assert answer.status_code == 201, answer.text
    project = answer.json()
    for role, member in roles.items():
        await set_member(creator, project["id"], member, role)
    return UUID(project["id"])


async def set_member(owner: Person, project_id: Any, member: Person, role: str) -> None:
    """Give the member a role."""
    answer = await owner.http.put(f"/projects/{project_id}/members/{member.user.username}", json={"role": role})
    assert (answer.status_code, answer.json()["role"]) == (200, role), answer.text
    assert answer.json()["accepted"] is (owner is member)
