"""The input of an operation's workflow, made from its row."""

from domain.data.models import Operation
from domain.data.parameters import SHAPES, parameters_of
from domain.rules.messages import OperationInput


def input_of(operation: Operation, vm_name: str | None) -> OperationInput:
    """The input of the operation's workflow; `vm_name` is None if the operation has no VM.

    It has no `actor`: usernames are personal, and Temporal keeps all inputs (ADR 058).
    """
    return OperationInput(
        operation_id=operation.id,
        vm_id=operation.vm_id,
        action=operation.action,
        epoch=operation.epoch,
        previous_status=operation.previous_status,
        vm_name=vm_name or "",
        about=parameters_of(operation, SHAPES[operation.action]).describe(),
        resource_id=operation.resource_id,
        interruption=operation.interruption or "",
    )
