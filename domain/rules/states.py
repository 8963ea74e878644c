"""The words for a VM's life: statuses, task states, actions. They are Nova's where Nova has one."""

from enum import StrEnum


class Status(StrEnum):
    """The stable state of a VM, as clients see it."""

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
    """What is being done to a VM right now; a VM nothing is done to has none."""

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
    """What can be asked; a row of the table each, but for the last."""

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
    RESET_STATE = "reset-state"  # has no row: it writes down what an admin, or the cloud, has decided already

    @property
    def word(self) -> str:
        """The action as paths, answers and workflow ids say it: both reboots are `reboot`."""
        return "reboot" if self in {Action.REBOOT_SOFT, Action.REBOOT_HARD} else self.value


class OperationStatus(StrEnum):
    """How far an operation is: what was asked, as opposed to the VM it was asked of."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SUPERSEDED = "SUPERSEDED"


OPEN_STATUSES = (OperationStatus.QUEUED, OperationStatus.RUNNING)
