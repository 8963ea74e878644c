"""A hypervisor that pretends; installed as nova/virt/testcloud.py, because Nova loads drivers only from there.

It is the one of DevStack's tests, with what an orchestrator's tests need:

- a snapshot uploads bytes. Otherwise its image would stay `queued` for ever;
- guests survive a restart of nova-compute. Otherwise a stop after it would be accepted, but not happen;
- the server's metadata makes calls fail or last: `testcloud_fail=spawn,power_off`, `testcloud_delay=spawn:3`.
"""

import functools
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nova.conf
from nova import exception
from nova.image import glance
from nova.virt import fake

STEERED = (
    "spawn",
    "snapshot",
    "reboot",
    "rescue",
    "unrescue",
    "migrate_disk_and_power_off",
    "finish_migration",
    "finish_revert_migration",
    "power_off",
    "power_on",
    "pause",
    "unpause",
    "suspend",
    "resume",
    "destroy",
    "attach_volume",
    "detach_volume",
    "attach_interface",
    "detach_interface",
    "post_live_migration_at_destination",
)
IMAGE_CONTENT = b"\0" * (1 << 20)


class PretendingDriver(fake.FakeDriverWithoutFakeNodes):
    """The hypervisor."""

    @property
    def _file(self) -> Path:
        return Path(nova.conf.CONF.state_path) / "guests.json"

    def init_host(self, host: str) -> None:
        """Find the guests of the process before."""
        super().init_host(host)
        if self._file.exists():
            guests = json.loads(self._file.read_text())
            self.instances.update({id: fake.FakeInstance(name, state, id) for id, (name, state) in guests.items()})

    def save_guests(self) -> None:
        """Write down which guests there are."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({id: (guest.name, guest.state) for id, guest in self.instances.items()}))
        new.replace(self._file)

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        """Unplug a port, also one that the process before has plugged in."""
        del context, instance
        self._interfaces.pop(vif["id"], None)

    def snapshot(self, context: Any, instance: Any, image_id: str, update_task_state: Any) -> None:
        """Save a guest as an image."""
        super().snapshot(context, instance, image_id, update_task_state)
        api = glance.API()
        image = {
            "name": api.get(context, image_id)["name"],
            "status": "active",
            "disk_format": "raw",
            "container_format": "bare",
            "properties": {},
        }
        api.update(context, image_id, image, io.BytesIO(IMAGE_CONTENT), purge_props=False)


def steered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a driver's method that lasts and fails as the server's metadata say."""

    @functools.wraps(function)
    def call(self: PretendingDriver, *args: Any, **kwargs: Any) -> Any:
        instances = (value for value in args if type(value).__name__ == "Instance")
        instance = kwargs.get("instance") or next(instances, None)
        metadata = getattr(instance, "metadata", None) or {}
        for delay in filter(None, metadata.get("testcloud_delay", "").split(",")):
            method, _, seconds = delay.partition(":")
            if method == name:
                time.sleep(float(seconds or 1))
        if name in metadata.get("testcloud_fail", "").split(","):
            raise exception.InternalError(f"testcloud: {name} told to fail")
        try:
            return function(self, *args, **kwargs)
        finally:
            self.save_guests()

    return call


for _name in STEERED:
    setattr(PretendingDriver, _name, steered(_name, getattr(PretendingDriver, _name)))
