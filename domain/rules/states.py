"""The statuses and task states of VMs, in Nova's words if it has them; actions; the statuses of operations."""

from enum import StrEnum


class Status(StrEnum):
    """The status of a VM, as clients see it."""

    BUILDING = "BUILDING"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    REBOOTING = "REBOOTING"
    RESIZING = "RESIZING"
    VERIFY_RESIZE = "VERIFY_RESIZE"
    ERROR = "ERROR"
    DELETING = "DELETING"
    DELETED = "DELETED"


class TaskState(StrEnum):
    """The step that a VM's operation is in. An idle VM has no task state."""

    SCHEDULING = "scheduling"
    NETWORKING = "networking"
    SPAWNING = "spawning"
    POWERING_ON = "powering_on"
    POWERING_OFF = "powering_off"
    REBOOTING = "rebooting"
    REBOOTING_HARD = "rebooting_hard"
    RESIZE_PREP = "resize_prep"
    RESIZE_MIGRATING = "resize_migrating"
    RESIZE_FINISH = "resize_finish"
    RESIZE_CONFIRMING = "resize_confirming"
    RESIZE_REVERTING = "resize_reverting"
    IMAGE_SNAPSHOT = "image_snapshot"
    IMAGE_UPLOADING = "image_uploading"
    RESTORING = "restoring"
    DELETING = "deleting"


class Action(StrEnum):
    """An action of an operation. Each has a row in the lifecycle table, except ADOPT and RESET_STATE."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT_SOFT = "reboot-soft"
    REBOOT_HARD = "reboot-hard"
    RESIZE = "resize"
    CONFIRM_RESIZE = "confirm-resize"
    REVERT_RESIZE = "revert-resize"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    ATTACH_VOLUME = "attach-volume"
    DETACH_VOLUME = "detach-volume"
    ATTACH_INTERFACE = "attach-interface"
    DETACH_INTERFACE = "detach-interface"
    DELETE = "delete"
    DELETE_SNAPSHOT = "delete-snapshot"
    CREATE_VOLUME = "create-volume"
    DELETE_VOLUME = "delete-volume"
    EXTEND_VOLUME = "extend-volume"
    ADOPT = "adopt"  # no row and no workflow: it records that a server of the cloud became a VM
    RESET_STATE = "reset-state"  # no row and no workflow: it only records that an admin or a repair has set a status

    @property
    def word(self) -> str:
        """The action's name in `allowed_actions`, messages and workflow ids; both reboots are `reboot`."""
        return "reboot" if self in {Action.REBOOT_SOFT, Action.REBOOT_HARD} else self.value


RESIZE_DECISIONS = (Action.CONFIRM_RESIZE, Action.REVERT_RESIZE)


class OperationStatus(StrEnum):
    """The status of an operation."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SUPERSEDED = "SUPERSEDED"


OPEN_STATUSES = (OperationStatus.QUEUED, OperationStatus.RUNNING)
