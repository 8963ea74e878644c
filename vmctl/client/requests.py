# Generated from the OpenAPI document by `python -m tests.vmctl.generated`.

"""What the service is sent."""

from typing import Literal, NotRequired, TypedDict
from uuid import UUID


class Adoption(TypedDict):
    """
    The user who gets the VM.
    """

    username: str


class Credentials(TypedDict):
    """
    A username and its password.
    """

    username: str
    password: str


class Extension(TypedDict):
    """
    The new size of the volume, in GiB.
    """

    size_gb: int


class NewAttachment(TypedDict):
    """
    The volume to attach; with `delete_on_termination` it is deleted together with the VM.
    """

    volume_id: UUID | str
    delete_on_termination: NotRequired[bool]
    """
    Default: `false`.
    """


class NewInterface(TypedDict):
    """
    The network in which the VM gets an address, and that address if it matters which one.
    """

    network_id: UUID | str
    ip_address: NotRequired[str]


class NewSSHKey(TypedDict):
    """
    The public key to keep, as one line in the format of OpenSSH.
    """

    name: str
    public_key: str


class NewSnapshot(TypedDict):
    """
    The snapshot to take.
    """

    name: str


class NewVM(TypedDict):
    """
    The VM to create. Without `image_id` or networks it gets the defaults; `[]` means no network.

    Instead of an image it can boot from the disk of a snapshot (`snapshot_id`), or from a volume that was created from
    an image (`boot_volume`). `interfaces` takes the place of `network_ids` where an address matters. Without
    `availability_zone` or `security_groups` the cloud chooses.
    """

    name: str
    flavor_id: UUID | str
    image_id: NotRequired[UUID | str]
    network_ids: NotRequired[list[UUID | str]]
    labels: NotRequired[dict[str, str]]
    ssh_keys: NotRequired[list[str]]
    """
    Names of your SSH keys. cloud-init lets them log in as the image's user.
    """

    user_data: NotRequired[str]
    """
    What cloud-init carries out at the first boot: a script, a cloud-config, or a MIME message. Plain text. Together with the SSH keys it has at most 49,149 bytes in UTF-8. No answer shows it.
    """

    interfaces: NotRequired[list[NewInterface]]
    availability_zone: NotRequired[str]
    security_groups: NotRequired[list[str]]
    """
    Names or, where several groups have one name, ids.
    """

    snapshot_id: NotRequired[UUID | str]
    boot_volume: NotRequired[NewAttachment]


class NewVolume(TypedDict):
    """
    The volume to create; `size_gb` in GiB. With `image_id` it is a copy of the image, and VMs can boot from it.
    """

    name: str
    size_gb: int
    image_id: NotRequired[UUID | str]


class NoInput(TypedDict):
    """
    The empty body of an action that needs no input.
    """


class Reboot(TypedDict):
    """
    SOFT asks the guest to restart; HARD cycles its power.
    """

    type: NotRequired[Literal["SOFT", "HARD"]]
    """
    Default: `SOFT`.
    """


class RefreshRequest(TypedDict):
    """
    The refresh token of the last login or refresh.
    """

    refresh_token: str


class Registration(TypedDict):
    """
    A new user.
    """

    username: str
    email: str
    password: str


class ResetState(TypedDict):
    """
    The new status of the VM.
    """

    status: Literal["ACTIVE", "SHUTOFF", "VERIFY_RESIZE", "ERROR"]


class Resize(TypedDict):
    """
    The new flavor of the VM.
    """

    flavor_id: UUID | str


class VMChanges(TypedDict):
    """
    The fields to change; `labels` replaces all labels.
    """

    name: NotRequired[str]
    labels: NotRequired[dict[str, str]]
