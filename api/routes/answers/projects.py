"""The bodies of answers about projects and their quotas."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from api.web.models import Answer, Page
from domain.rules.access import ProjectRole


class Project(Answer):
    """A project, and what you are in it. A `personal` one belongs to one user, who always owns it."""

    id: UUID
    name: str
    personal: bool
    role: ProjectRole
    created_at: datetime


class ProjectPage(Page[Project]):
    """Projects."""


class Member(Answer):
    """A member of a project, since `created_at`; `accepted` if the member has made the project or set the role."""

    username: str = Field(examples=["grace"])
    role: ProjectRole
    accepted: bool
    created_at: datetime


class MemberPage(Page[Member]):
    """Members of a project."""


class QuotaUse(Answer):
    """The limit of a quota, null if there is none, and what the project uses of it."""

    limit: int | None
    used: int


class AddressUse(Answer):
    """The number of the project's addresses in a network."""

    network_id: UUID
    used: int


class Quotas(Answer):
    """How much the project may have, and how much it has: `ram_mb` in MiB, `volume_gb` in GiB.

    `addresses_per_network` limits each network by itself. Its `used` is the largest number in `addresses`.
    """

    project_id: UUID
    vms: QuotaUse
    vcpus: QuotaUse
    ram_mb: QuotaUse
    volumes: QuotaUse
    volume_gb: QuotaUse
    snapshots: QuotaUse
    addresses_per_network: QuotaUse
    open_operations: QuotaUse
    addresses: list[AddressUse]
