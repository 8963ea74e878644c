"""A storage that pretends: Cinder's own, with what it lacks, which is room, growth, and images."""

import io
from pathlib import Path
from typing import Any

from cinder.tests import fake_driver
from oslo_config import cfg

ROOM_GB = 100_000
CONTENT = b"\0" * (1 << 20)  # of an image, and of any volume


class PretendingVolumeDriver(fake_driver.FakeLoggingVolumeDriver):
    """The storage."""

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Nothing has to grow."""

    def clone_image(self, *_: Any) -> tuple[dict[str, Any], bool]:
        """Make a volume of an image, without any bytes to copy."""
        return {}, True

    def copy_volume_to_image(self, context: Any, volume: Any, image_service: Any, image_meta: Any) -> None:
        """Save a volume as an image."""
        del volume
        formats = {"disk_format": "raw", "container_format": "bare"}
        image_service.update(context, image_meta["id"], formats, io.BytesIO(CONTENT))

    def initialize_connection(self, volume: Any, connector: Any) -> dict[str, Any]:
        """Let Cinder's backups read and write a file. Nova connects nothing, and so it does not look at this."""
        del connector
        file = Path(cfg.CONF.state_path) / "volumes" / volume.id
        file.write_bytes(CONTENT)
        return {"driver_volume_type": "local", "data": {"device_path": str(file)}}

    def validate_connector(self, connector: Any) -> None:
        """Whoever connects needs nothing for that."""

    def delete_volume(self, volume: Any) -> None:
        """Delete the file, if there is one."""
        (Path(cfg.CONF.state_path) / "volumes" / volume.id).unlink(missing_ok=True)

    def revert_to_snapshot(self, context: Any, volume: Any, snapshot: Any) -> None:
        """Nothing has changed since the snapshot."""

    def _update_volume_stats(self) -> None:
        pool = {
            "pool_name": "fake",
            "total_capacity_gb": ROOM_GB,
            "free_capacity_gb": ROOM_GB,
            "reserved_percentage": 0,
            "multiattach": True,
            "QoS_support": False,
            "thin_provisioning_support": True,
            "max_over_subscription_ratio": "20.0",
            "thick_provisioning_support": False,
            "provisioned_capacity_gb": 0,
        }
        self._stats = {
            "volume_backend_name": self.configuration.safe_get("volume_backend_name") or "fake",
            "vendor_name": "testcloud",
            "driver_version": "1",
            "storage_protocol": "fake",
            "pools": [pool],
        }
