"""The bodies of requests about volumes and snapshots."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from api.routes.requests.base import Request, is_absent, is_empty
from api.web.fields import WHOLE, Labels, Name

VolumeSize = Annotated[int, Field(ge=1, le=16_384, strict=True), WHOLE]


class NewSnapshot(Request):
    """The snapshot to take."""

    name: Name = Field(examples=["before-upgrade"])
    labels: Labels = Field(default_factory=dict, examples=[{"env": "prod"}], exclude_if=is_empty)


class NewVolume(Request):
    """The volume to create; `size_gb` in GiB. With `image_id` it is a copy of the image, and VMs can boot from it."""

    name: Name = Field(examples=["data-1"])
    size_gb: VolumeSize = Field(examples=[10])
    image_id: UUID | None = Field(default=None, exclude_if=is_absent)
    labels: Labels = Field(default_factory=dict, examples=[{"env": "prod"}], exclude_if=is_empty)
    project_id: UUID | None = Field(
        default=None, description="The project that it is to belong to; by default your own.", exclude_if=is_absent
    )


class Extension(Request):
    """The new size of the volume, in GiB."""

    size_gb: VolumeSize = Field(examples=[20])
