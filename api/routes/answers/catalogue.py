"""The bodies of answers about what VMs can be made of."""

from uuid import UUID

from api.web.models import Answer, Page


class Flavor(Answer):
    """A size of VM: `ram_mb` in MiB, `disk_gb` in GiB. `is_available`: VMs can still get it."""

    id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    is_available: bool


class Image(Answer):
    """An image from which VMs boot; `size_gb`, in GiB, is the smallest disk that holds it.

    `os_distro` and `os_version` are null if the image does not tell. `is_available`: VMs can still get it.
    """

    id: UUID
    name: str
    os_distro: str | None
    os_version: str | None
    size_gb: int
    is_default: bool
    is_available: bool


class Network(Answer):
    """A network to which VMs can be attached; `gateway` is null if it has none.

    `free_addresses` is the number of addresses that no interface has; it is null if only the cloud knows it.
    `is_available`: VMs can still be attached to it.
    """

    id: UUID
    name: str
    cidr: str
    gateway: str | None
    is_default: bool
    free_addresses: int | None
    is_available: bool


class FlavorPage(Page[Flavor]):
    """Flavors."""


class ImagePage(Page[Image]):
    """Images."""


class NetworkPage(Page[Network]):
    """Networks."""
