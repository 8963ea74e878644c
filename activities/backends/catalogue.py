"""What a cloud offers to the project: what new VMs can be made of, and where they can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class FlavorOffer:
    """A size of server: `ram_mb` in MiB, `disk_gb` in GiB. Its id may be any text."""

    cloud_id: str
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int


@dataclass(frozen=True, slots=True)
class ImageOffer:
    """An image that servers boot from; `size_gb`, in GiB, is the smallest disk that holds it."""

    id: UUID
    name: str
    size_gb: int
    os_distro: str | None
    os_version: str | None


@dataclass(frozen=True, slots=True)
class NetworkOffer:
    """A network that servers can be plugged into, with the addresses of its first subnet."""

    id: UUID
    name: str
    cidr: str
    gateway: str | None


@dataclass(frozen=True, slots=True)
class SecurityGroupOffer:
    """A security group of the project. Names may repeat."""

    id: UUID
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is offered. The first image and the first network are the best ones for who asks for none.

    `zones` are the names of the availability zones.
    """

    flavors: Sequence[FlavorOffer]
    images: Sequence[ImageOffer]
    networks: Sequence[NetworkOffer]
    groups: Sequence[SecurityGroupOffer] = ()
    zones: Sequence[str] = ()
