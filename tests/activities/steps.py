"""The steps on snapshots, volumes and interfaces: their activity, their action, and the verb that they call."""

from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.interfaces import InterfaceActivities
from activities.snapshots import SnapshotActivities
from activities.steps import StepActivities
from activities.volumes import VolumeActivities
from domain.rules.messages import Activity, OperationInput
from domain.rules.states import Action

Step = Callable[[OperationInput], Awaitable[None]]
STEPS: dict[Activity, tuple[type[StepActivities], Action, str]] = {
    Activity.CREATE_SERVER_IMAGE: (SnapshotActivities, Action.SNAPSHOT, "create_server_image"),
    Activity.REBUILD_SERVER: (SnapshotActivities, Action.RESTORE, "rebuild_server"),
    Activity.DELETE_IMAGE: (SnapshotActivities, Action.DELETE_SNAPSHOT, "delete_image"),
    Activity.CREATE_VOLUME: (VolumeActivities, Action.CREATE_VOLUME, "create_volume"),
    Activity.DELETE_VOLUME: (VolumeActivities, Action.DELETE_VOLUME, "delete_volume"),
    Activity.EXTEND_VOLUME: (VolumeActivities, Action.EXTEND_VOLUME, "extend_volume"),
    Activity.ATTACH_VOLUME: (VolumeActivities, Action.ATTACH_VOLUME, "attach_volume"),
    Activity.DETACH_VOLUME: (VolumeActivities, Action.DETACH_VOLUME, "detach_volume"),
    Activity.CREATE_INTERFACE: (InterfaceActivities, Action.ATTACH_INTERFACE, "create_server_interface"),
    Activity.DELETE_INTERFACE: (InterfaceActivities, Action.DETACH_INTERFACE, "delete_server_interface"),
}


def step_of(name: Activity, engine: AsyncEngine, cloud: MockBackend) -> Step:
    """Return the activity with that name."""
    activity: Step = getattr(STEPS[name][0](engine, cloud), name)
    return activity
