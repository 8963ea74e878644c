"""What the API, the workflows and the activities say to each other through Temporal: names and payloads.

Payloads are frozen dataclasses of identifiers and plain values, in seconds where they hold time. They are kept in
workflow histories, so they carry no secret, and fields are only ever added, with a default.
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from domain.lifecycle import Action


class Activity(StrEnum):
    """The name of every activity."""

    SCHEDULE_SERVER = "schedule_server"
    CREATE_PORTS = "create_ports"
    SPAWN_SERVER = "spawn_server"
    START_SERVER = "start_server"
    STOP_SERVER = "stop_server"
    REBOOT_SERVER = "reboot_server"
    REBOOT_SERVER_HARD = "reboot_server_hard"
    PREEMPT_OPERATIONS = "preempt_operations"
    LIST_OPEN_WORKFLOWS = "list_open_workflows"
    TERMINATE_WORKFLOWS = "terminate_workflows"
    DELETE_SERVER = "delete_server"
    WAIT_FOR_SERVER = "wait_for_server"
    SETTLE_SERVER = "settle_server"
    UNDO_CREATE = "undo_create"
    FINISH_OPERATION = "finish_operation"
    FAIL_OPERATION = "fail_operation"


class ServerStatus(StrEnum):
    """What a backend says of a server, in Nova's words; GONE is a server it does not have."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    REBOOT = "REBOOT"
    ERROR = "ERROR"
    DELETING = "DELETING"
    GONE = "GONE"


@dataclass(frozen=True)
class OperationInput:
    """The operation a workflow carries out; every fenced activity gets it whole."""

    operation_id: UUID
    vm_id: UUID
    action: Action
    epoch: int = 0


@dataclass(frozen=True)
class WaitForServerInput:
    """Wait until the backend shows the operation's server in `status`."""

    operation: OperationInput
    status: ServerStatus


@dataclass(frozen=True)
class FailOperationInput:
    """Why an operation ended without success; `intact` is what `lifecycle.fail` makes of it."""

    operation: OperationInput
    code: str
    message: str
    canceled: bool = False
    intact: bool = False


@dataclass(frozen=True)
class WorkflowsInput:
    """Workflows that a delete has pre-empted, by id."""

    operation: OperationInput
    workflow_ids: tuple[str, ...]


def waits_queue(task_queue: str) -> str:
    """The task queue of the activities that only wait, so that many of them starve nobody else."""
    return f"{task_queue}-waits"
