"""Who may do what in a project: one small table of roles and verbs.

What a user may not read does not exist for that user, so it is not found. What a user may read but not change is
forbidden.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from domain.rules.errors import NotFoundError, ServiceError


class ProjectRole(StrEnum):
    """What a member of a project is in it."""

    READER = "reader"
    OPERATOR = "operator"
    OWNER = "owner"


class Verb(StrEnum):
    """What a request does with a project or with what belongs to it; `manage` is about its members."""

    READ = "read"
    CHANGE = "change"
    MANAGE = "manage"


ALLOWED: Final[Mapping[ProjectRole, frozenset[Verb]]] = {
    ProjectRole.READER: frozenset({Verb.READ}),
    ProjectRole.OPERATOR: frozenset({Verb.READ, Verb.CHANGE}),
    ProjectRole.OWNER: frozenset(Verb),
}
"""The table."""

_NEEDED: Final = {Verb.CHANGE: "operator or owner", Verb.MANAGE: "owner"}


class ForbiddenError(ServiceError):
    """The requester may read the resource, but not do this with it."""

    code = "forbidden"


class LastOwnerError(ServiceError):
    """The change would leave a project without an owner, or a personal project without its user."""

    code = "last_owner"


class ProjectInUseError(ServiceError):
    """A project that cannot be deleted."""

    code = "project_in_use"


def check(role: ProjectRole | None, verb: Verb, resource: str, id: object, field: str | None = None) -> None:
    """Raise NotFoundError or ForbiddenError unless a user with this role may do this with the resource.

    Without a role the user is no member of the resource's project. `field` is the field of the body that names it.
    """
    if role is None:
        raise NotFoundError(resource, id, field)
    if verb not in ALLOWED[role]:
        owner = "project" if resource == "project" else f"{resource}'s project"
        raise ForbiddenError(f"You are a {role} of the {owner}. This needs the role {_NEEDED[verb]}.")
