"""The bodies of PATCH requests: JSON merge patches (RFC 7396)."""

from typing import Any

from pydantic import Field

from api.routes.requests.base import Request
from api.web.fields import LabelChanges, Name


class _Changes(Request):
    """The fields to change. Those that are left out stay as they are."""

    name: Name = Field(default_factory=str, examples=["web-2"])
    labels: LabelChanges | None = Field(
        default_factory=dict,
        description="The labels to set. A label that is null is removed; all others stay.",
        examples=[{"env": "test", "legacy": None}],
    )

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that were sent."""
        return self.model_dump(exclude_unset=True)


class VMChanges(_Changes):
    """The fields of a VM to change. Those that are left out stay as they are."""


class VolumeChanges(_Changes):
    """The fields of a volume to change. Those that are left out stay as they are."""


class SnapshotChanges(_Changes):
    """The fields of a snapshot to change. Those that are left out stay as they are."""
