"""The rule that a flavor's disk must be large enough for the image or snapshot that it is to hold."""

from domain.rules.errors import FlavorTooSmallError


def check_fits(flavor: str, disk_gb: int, content: str, size_gb: int, field: str | None = None) -> None:
    """Raise FlavorTooSmallError if `content`, such as "image debian-12", is larger than the flavor's disk.

    Sizes are in GiB. `field` is the field of the request's body that names the flavor, if one does. VMs that broke the
    rule before it existed keep working, so nothing else may rely on it.
    """
    if size_gb > disk_gb:
        raise FlavorTooSmallError(flavor, disk_gb, content, size_gb, field)
