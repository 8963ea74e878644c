"""The bodies of requests about projects."""

from typing import Annotated

from pydantic import Field

from api.routes.requests.base import Request, example
from api.web.fields import WHOLE, Name
from domain.rules.access import ProjectRole
from domain.rules.quotas import Quota

MOST = 2**53 - 1  # JSON numbers are exact up to here


class NewProject(Request):
    """The project to make."""

    name: Name = Field(examples=["web-shop"])


class Membership(Request):
    """What the user is to be in the project."""

    role: ProjectRole = Field(
        description="`reader`: every GET. `operator`: everything but its members. `owner`: everything.",
        examples=["operator"],
    )


Limit = Annotated[int, Field(ge=0, le=MOST, strict=True), WHOLE]


class QuotaChanges(Request):
    """The new limits; those that are left out stay. 0 means no limit, and null the default of the service."""

    model_config = example(vms=50, vcpus=200)

    vms: Limit | None = None
    vcpus: Limit | None = None
    ram_mb: Limit | None = Field(default=None, description="In MiB.")
    volumes: Limit | None = None
    volume_gb: Limit | None = Field(default=None, description="In GiB.")
    snapshots: Limit | None = None
    addresses_per_network: Limit | None = None
    open_operations: Limit | None = None

    @property
    def limits(self) -> dict[Quota, int | None]:
        """The limits that the body names."""
        return {Quota(name): getattr(self, name) for name in self.model_fields_set}
