"""What a request says of a new VM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from domain.rules.references import Choice


@dataclass(frozen=True, slots=True)
class Placement:
    """The wishes of a request. A security group is named by a name that only one has, or by its id."""

    availability_zone: str | None = None
    security_groups: Sequence[str] | None = None


ANYWHERE: Final = Placement()


@dataclass(frozen=True, slots=True)
class WantedVolume:
    """A volume that a new VM should have. `field` is the body's field that names it.

    `device` is None if the cloud chooses it.
    """

    volume_id: UUID
    delete_on_termination: bool
    device: str | None
    field: str


@dataclass(frozen=True, slots=True)
class NewVM:
    """The VM to create. Without an image or networks it gets the defaults; an empty list of networks means none.

    It boots from one thing: an image, a snapshot, or a volume. `volumes` are attached to it beside that. `ssh_keys` are
    names of the requester's keys. `ip_addresses` are the wanted ones by the index of their network. `at` is the place
    of the VM in the request's body, such as `vms/3/`. Without a `project_id` it is the requester's own.
    """

    name: str
    flavor: Choice
    image: Choice | None = None
    networks: Sequence[Choice] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ssh_keys: Sequence[str] = ()
    user_data: str | None = field(default=None, repr=False)  # it may hold secrets
    ip_addresses: Mapping[int, str] = field(default_factory=dict)
    placement: Placement = ANYWHERE
    snapshot_id: UUID | None = None
    boot_volume: WantedVolume | None = None
    volumes: Sequence[WantedVolume] = ()
    at: str = ""
    project_id: UUID | None = None

    @property
    def all_volumes(self) -> Sequence[WantedVolume]:
        """The volumes that the VM takes, with the one that it boots from."""
        return [self.boot_volume, *self.volumes] if self.boot_volume else self.volumes
