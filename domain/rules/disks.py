"""What a disk must be: large enough for what it is to hold, and one that a VM can boot from or do without."""

from domain.rules.errors import FieldIssue, FlavorTooSmallError, InvalidTransitionError, ServiceError


class VolumeTooSmallError(ServiceError):
    """The volume would be smaller than what it must hold, or not larger than it is already."""

    code = "volume_too_small"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.fields = [FieldIssue("size_gb", self.code, message)]


class NotBootableError(ServiceError):
    """A VM cannot boot from the volume."""

    code = "not_bootable"

    def __init__(self, volume: str, field: str) -> None:
        message = f"Volume {volume} was not created from an image, so no VM can boot from it."
        super().__init__(message)
        self.fields = [FieldIssue(field, self.code, message)]


class RootVolumeError(ServiceError):
    """The volume is the disk that the VM boots from."""

    code = "root_volume"

    def __init__(self) -> None:
        super().__init__("The VM boots from this volume, so it cannot be detached. It is freed when the VM is deleted.")


class AttachedError(InvalidTransitionError):
    """A volume in ERROR cannot be deleted while it is attached to a VM."""

    @staticmethod
    def _reason(word: str, status: str, task_state: str | None, resource: str) -> str:
        del status, task_state
        return f"Cannot {word} a {resource} that is attached to a VM"


class VolumeBackedError(ServiceError):
    """The action needs a VM with a disk of its own, but this one boots from a volume."""

    code = "volume_backed"

    def __init__(self) -> None:
        super().__init__("The VM boots from a volume. Snapshots can only be taken of VMs with a disk of their own.")


def check_fits(flavor: str, disk_gb: int, content: str, size_gb: int, field: str | None = None) -> None:
    """Raise FlavorTooSmallError if `content`, such as "image debian-12", is larger than the flavor's disk.

    Sizes are in GiB. `field` is the field of the request's body that names the flavor, if one does. VMs that broke the
    rule before it existed keep working, so nothing else may rely on it.
    """
    if size_gb > disk_gb:
        raise FlavorTooSmallError(flavor, disk_gb, content, size_gb, field)
