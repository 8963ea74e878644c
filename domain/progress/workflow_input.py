"""What a workflow is given of its operation."""

from typing import Final

from domain.data.models import Operation
from domain.rules.markdown import quoted
from domain.rules.messages import OperationInput
from domain.rules.states import Action

_ABOUT: Final = {
    Action.RESIZE: "from {previous_flavor} to {flavor}",
    Action.CONFIRM_RESIZE: "to {flavor}",
    Action.REVERT_RESIZE: "back to {flavor}",
    Action.SNAPSHOT: "as {name}",
    Action.RESTORE: "from {name}",
    Action.DELETE_SNAPSHOT: "snapshot {name}",
    Action.CREATE_VOLUME: "{name} of {size_gb} GiB",
    Action.DELETE_VOLUME: "{name}",
    Action.ATTACH_VOLUME: "volume {name} as {device}",
    Action.DETACH_VOLUME: "volume {name} from {device}",
    Action.ATTACH_INTERFACE: "address {ip_address} in network {network}",
    Action.DETACH_INTERFACE: "address {ip_address} in network {network}",
}


def input_of(operation: Operation, vm_name: str | None) -> OperationInput:
    """What the operation's workflow is given; `vm_name` is None where it has no VM."""
    return OperationInput(
        operation.id,
        operation.vm_id,
        operation.action,
        operation.epoch,
        operation.previous_status,
        vm_name or "",
        operation.actor,
        _about(operation),
        operation.resource_id,
        operation.interruption or "",
    )


def _about(operation: Operation) -> str:
    """What people want to know of an operation beside its action and its VM."""
    peoples = {key: quoted(operation.input[key]) for key in ("name", "network") if key in operation.input}
    return _ABOUT.get(operation.action, "").format_map(operation.input | peoples)
