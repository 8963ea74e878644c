"""The quotas of a project: what is limited, and what a refusal says."""

from enum import StrEnum
from typing import Final

from domain.rules.errors import QuotaExceededError, ServiceError


class Quota(StrEnum):
    """Something of which a project may have only so much. The values are also names of columns and of settings.

    VMs count until they are DELETED, with the vCPUs and the RAM of their flavors. During a resize the larger of the two
    flavors counts. Volumes and snapshots count until they are DELETED, too.
    """

    VMS = "vms"
    VCPUS = "vcpus"
    RAM_MB = "ram_mb"
    VOLUMES = "volumes"
    VOLUME_GB = "volume_gb"
    SNAPSHOTS = "snapshots"
    ADDRESSES_PER_NETWORK = "addresses_per_network"
    OPEN_OPERATIONS = "open_operations"


CONSTRAINT_PREFIX = "quota_"
"""With a quota's name it is the name of the constraint that a refused transaction has violated."""

DELETED_PROJECT: Final = "deleted_project"
"""The same, if the project was deleted in that moment."""


class ProjectQuotaExceededError(QuotaExceededError):
    """The project has as much as it may have."""

    def __init__(self, quota: Quota, limit: int, used: int) -> None:
        message = f"The project's quota {quota} is {limit}, and {used} are in use. That is too little for this request."
        ServiceError.__init__(self, message)
        self.quota, self.limit, self.used = quota, limit, used
