"""The parameters of operations, in a typed shape for each action. `operations.input` stores them as JSON.

The column is one flat JSON object: the parameters that the requester chose, and beside them what the service needs to
carry the operation out (`Control`). It stays flat so that this version and the one before can read each other's rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from pydantic import TypeAdapter

from domain.data.models import Operation
from domain.rules.markdown import quoted
from domain.rules.states import Action


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of an action. Actions without parameters use this class itself."""

    def describe(self) -> str:
        """The parameters in a few words, as Markdown for people in the Temporal Web UI; may be empty."""
        return ""


@dataclass(frozen=True, slots=True)
class CreateVM(Parameters):
    """The VM to build, from a snapshot, a volume or else the image. `ip_addresses`, by network, were asked for."""

    name: str
    flavor_id: UUID
    image_id: UUID
    network_ids: list[UUID]
    ip_addresses: dict[UUID, str] | None = None
    availability_zone: str | None = None
    security_groups: list[str] | None = None
    snapshot_id: UUID | None = None
    boot_volume_id: UUID | None = None
    volume_ids: list[UUID] | None = None


@dataclass(frozen=True, slots=True)
class Reboot(Parameters):
    """The kind of reboot: SOFT or HARD."""

    type: str


@dataclass(frozen=True, slots=True)
class Resize(Parameters):
    """The new flavor and the flavor before, each by id and name."""

    flavor_id: UUID
    flavor: str
    previous_flavor_id: UUID
    previous_flavor: str

    def describe(self) -> str:
        """The old and the new flavor."""
        return f"from {self.previous_flavor} to {self.flavor}"


@dataclass(frozen=True, slots=True)
class ConfirmResize(Parameters):
    """The flavor that the VM keeps."""

    flavor_id: UUID
    flavor: str

    def describe(self) -> str:
        """The flavor that stays."""
        return f"to {self.flavor}"


@dataclass(frozen=True, slots=True)
class RevertResize(ConfirmResize):
    """The flavor that the VM gets back."""

    def describe(self) -> str:
        """The flavor that comes back."""
        return f"back to {self.flavor}"


@dataclass(frozen=True, slots=True)
class TakeSnapshot(Parameters):
    """The name of the new snapshot."""

    name: str

    def describe(self) -> str:
        """The name of the new snapshot."""
        return f"as {quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class Restore(Parameters):
    """The snapshot's name, flavor and image: a restore brings them back."""

    name: str
    flavor_id: UUID
    image_id: UUID

    def describe(self) -> str:
        """The name of the snapshot, as the source."""
        return f"from {quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class DeleteSnapshot(Parameters):
    """The name of the snapshot."""

    name: str

    def describe(self) -> str:
        """The name of the snapshot."""
        return f"snapshot {quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class CreateVolume(Parameters):
    """The volume to create: `size_gb` in GiB. With an image, VMs can boot from it."""

    name: str
    size_gb: int
    image_id: UUID | None = None

    def describe(self) -> str:
        """The volume's name and size."""
        return f"{quoted(self.name)} of {self.size_gb} GiB"


@dataclass(frozen=True, slots=True)
class DeleteVolume(Parameters):
    """The name of the volume."""

    name: str

    def describe(self) -> str:
        """The volume's name."""
        return quoted(self.name)


@dataclass(frozen=True, slots=True)
class ExtendVolume(Parameters):
    """The volume's name, its new size and the one before, in GiB."""

    name: str
    size_gb: int
    previous_size_gb: int

    def describe(self) -> str:
        """The volume's name and its sizes."""
        return f"{quoted(self.name)} from {self.previous_size_gb} to {self.size_gb} GiB"


@dataclass(frozen=True, slots=True)
class AttachVolume(Parameters):
    """The volume's name, its device in the VM, if we choose it, and whether it is deleted together with the VM."""

    name: str
    device: str | None = None
    delete_on_termination: bool = False

    def describe(self) -> str:
        """The volume's name and its new device."""
        return f"volume {quoted(self.name)}" + (f" as {self.device}" if self.device else "")


@dataclass(frozen=True, slots=True)
class DetachVolume(Parameters):
    """The volume's name and its device in the VM, if it is known."""

    name: str
    device: str | None = None

    def describe(self) -> str:
        """The volume's name and its device."""
        return f"volume {quoted(self.name)}" + (f" from {self.device}" if self.device else "")


@dataclass(frozen=True, slots=True)
class Interface(Parameters):
    """The name of the network and the address of the interface, if it is known, for attach and for detach.

    `network_id` is that of an attach; earlier versions did not record it. `wanted_address` is the address that the
    request of an attach asked for, if it did.
    """

    network: str
    ip_address: str | None = None
    network_id: UUID | None = None
    wanted_address: str | None = None

    def describe(self) -> str:
        """The address and its network."""
        return f"address {self.ip_address or 'of the cloud'} in network {quoted(self.network)}"


@dataclass(frozen=True, slots=True)
class Adopt(Parameters):
    """The server that became a VM: its name, the cloud's id of it, its flavor and its image."""

    name: str
    cloud_id: str
    flavor_id: UUID
    image_id: UUID


@dataclass(frozen=True, slots=True)
class ResetState(Parameters):
    """The status that the resource got, and why.

    An admin's reset has the state of the VM before it (`was`, `task_state`). A repair has the kind of difference
    (`because`, a Drift) and its two sides, in the cloud and in the database (`seen`).
    """

    status: str
    was: str | None = None
    task_state: str | None = None
    because: str | None = None
    seen: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """What the service needs to carry an operation out, beside its parameters.

    `confirm_window`: the seconds after which a resize confirms itself; 0 means never.
    `previous_fault`: the VM's fault before the operation cleared it; it comes back if the operation never begins.
    `was`: the status of the snapshot or volume before its delete, which comes back if the delete never begins; also the
    status of a volume before an extension.
    """

    confirm_window: int | None = None
    previous_fault: dict[str, Any] | None = None
    was: str | None = None


P = TypeVar("P", bound=Parameters)

NO_PARAMETERS: Final = Parameters()
NO_CONTROL: Final = Control()

SHAPES: Final[Mapping[Action, type[Parameters]]] = {
    Action.CREATE: CreateVM,
    Action.START: Parameters,
    Action.STOP: Parameters,
    Action.REBOOT_SOFT: Reboot,
    Action.REBOOT_HARD: Reboot,
    Action.RESIZE: Resize,
    Action.CONFIRM_RESIZE: ConfirmResize,
    Action.REVERT_RESIZE: RevertResize,
    Action.SNAPSHOT: TakeSnapshot,
    Action.RESTORE: Restore,
    Action.ATTACH_VOLUME: AttachVolume,
    Action.DETACH_VOLUME: DetachVolume,
    Action.ATTACH_INTERFACE: Interface,
    Action.DETACH_INTERFACE: Interface,
    Action.DELETE: Parameters,
    Action.DELETE_SNAPSHOT: DeleteSnapshot,
    Action.CREATE_VOLUME: CreateVolume,
    Action.DELETE_VOLUME: DeleteVolume,
    Action.EXTEND_VOLUME: ExtendVolume,
    Action.ADOPT: Adopt,
    Action.RESET_STATE: ResetState,
}
"""The shape of every action's parameters."""
_ADAPTERS: Final[Mapping[type, TypeAdapter[Any]]] = {shape: TypeAdapter(shape) for shape in SHAPES.values()}
_CONTROL: Final = TypeAdapter(Control)


def to_json(parameters: Parameters, control: Control) -> dict[str, Any]:
    """The value of `operations.input`."""
    values: dict[str, Any] = _ADAPTERS[type(parameters)].dump_python(parameters, mode="json", exclude_none=True)
    if control is not NO_CONTROL:
        values |= _CONTROL.dump_python(control, mode="json", exclude_none=True)
    return values


def parameters_of(operation: Operation, shape: type[P]) -> P:
    """The operation's parameters; `shape` is the one that SHAPES names for its action."""
    # pydantic ignores the keys of the flat object that belong to Control, and those that a later version may add.
    return cast("P", _ADAPTERS[shape].validate_python(operation.input))


def target_flavor(operation: Operation) -> UUID:
    """The flavor that the VM has once the operation has succeeded: of a resize, a confirm, a revert or a restore."""
    shape = SHAPES[operation.action]
    parameters = parameters_of(operation, shape)
    assert isinstance(parameters, Resize | ConfirmResize | Restore)  # noqa: S101 - others change no flavor
    return parameters.flavor_id


def control_of(operation: Operation) -> Control:
    """What the service needs to carry the operation out."""
    return _CONTROL.validate_python(operation.input)
