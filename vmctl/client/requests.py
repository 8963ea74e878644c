# Generated from the OpenAPI document by `python -m tests.vmctl.generated`.

"""What the service is sent."""

from typing import Literal, NotRequired, TypeAlias, TypedDict
from uuid import UUID


class Adoption(TypedDict):
    """
    The project that gets the VM, or the user whose personal project gets it.
    """

    project_id: NotRequired[UUID | str]
    username: NotRequired[str]


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

    The network is named by `network` or by `network_id`.
    """

    network: NotRequired[str]
    """
    The network's name, if only one has it, or its id.
    """

    network_id: NotRequired[UUID | str]
    ip_address: NotRequired[str]


class NewProject(TypedDict):
    """
    The project to make.
    """

    name: str


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
    labels: NotRequired[dict[str, str]]


class NewVM(TypedDict):
    """
    The VM to create. It needs `flavor` or `flavor_id`.

    Without an image or networks it gets the defaults; `[]` means no network. `flavor`, `image` and `networks` take the
    names of things or, where several have one name, their ids; `flavor_id`, `image_id` and `network_ids` take ids.
    Instead of an image it can boot from the disk of a snapshot (`snapshot_id`), or from a volume that was created from
    an image (`boot_volume`). `interfaces` takes the place of the networks where an address matters. Without
    `availability_zone` or `security_groups` the cloud chooses.
    """

    name: str
    flavor: NotRequired[str]
    """
    The flavor's name, if only one has it, or its id.
    """

    flavor_id: NotRequired[UUID | str]
    image_id: NotRequired[UUID | str]
    image: NotRequired[str]
    """
    The image's name, if only one has it, or its id.
    """

    network_ids: NotRequired[list[UUID | str]]
    networks: NotRequired[list[str]]
    """
    Names or, where several networks have one name, ids.
    """

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
    volumes: NotRequired[list[NewAttachment]]
    """
    Volumes that are AVAILABLE, to be attached while the VM is built.
    """

    project_id: NotRequired[UUID | str]


class NewVMs(TypedDict):
    """
    The VMs to create: all of them, or none.
    """

    vms: list[NewVM]


class NewVolume(TypedDict):
    """
    The volume to create; `size_gb` in GiB. With `image_id` it is a copy of the image, and VMs can boot from it.
    """

    name: str
    size_gb: int
    image_id: NotRequired[UUID | str]
    labels: NotRequired[dict[str, str]]
    project_id: NotRequired[UUID | str]


class NoInput(TypedDict):
    """
    The empty body of an action that needs no input.
    """


class PasswordChange(TypedDict):
    """
    The password that you have, and the one to have from now on.
    """

    current_password: str
    new_password: str


ProjectRole: TypeAlias = Literal["reader", "operator", "owner"]
"""
What a member of a project is in it.
"""


class QuotaChanges(TypedDict):
    """
    The new limits; those that are left out stay. 0 means no limit, and null the default of the service.
    """

    vms: NotRequired[int]
    vcpus: NotRequired[int]
    ram_mb: NotRequired[int]
    """
    In MiB.
    """

    volumes: NotRequired[int]
    volume_gb: NotRequired[int]
    """
    In GiB.
    """

    snapshots: NotRequired[int]
    addresses_per_network: NotRequired[int]
    open_operations: NotRequired[int]


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
    The new flavor of the VM, named by `flavor` or by `flavor_id`.
    """

    flavor: NotRequired[str]
    """
    The flavor's name, if only one has it, or its id.
    """

    flavor_id: NotRequired[UUID | str]


Role: TypeAlias = Literal["user", "admin"]
"""
What a user may do: an admin may also use everything under /admin.
"""


class RoleChange(TypedDict):
    """
    The role that a user is to have.
    """

    role: Role
    """
    An `admin` may use everything under /admin.
    """


Scope: TypeAlias = Literal["read", "write"]
"""
A part of what the owner of a token may do: `read` is every GET, `write` is everything, reading included.
"""


class SnapshotChanges(TypedDict):
    """
    The fields of a snapshot to change. Those that are left out stay as they are.
    """

    name: NotRequired[str]
    labels: NotRequired[dict[str, str | None]]
    """
    The labels to set. A label that is null is removed; all others stay.
    """


class VMChanges(TypedDict):
    """
    The fields of a VM to change. Those that are left out stay as they are.
    """

    name: NotRequired[str]
    labels: NotRequired[dict[str, str | None]]
    """
    The labels to set. A label that is null is removed; all others stay.
    """


class VolumeChanges(TypedDict):
    """
    The fields of a volume to change. Those that are left out stay as they are.
    """

    name: NotRequired[str]
    labels: NotRequired[dict[str, str | None]]
    """
    The labels to set. A label that is null is removed; all others stay.
    """


class Membership(TypedDict):
    """
    What the user is to be in the project.
    """

    role: ProjectRole
    """
    `reader`: every GET. `operator`: everything but its members. `owner`: everything.
    """


class NewToken(TypedDict):
    """
    The token to make for a program.
    """

    name: str
    """
    A name that none of your other tokens has.
    """

    scopes: list[Scope]
    """
    `read` is every GET. `write` is everything that you may do, reading included.
    """

    expires_in_days: NotRequired[int]
    """
    After so many days the token stops. Without this it never does.
    """
