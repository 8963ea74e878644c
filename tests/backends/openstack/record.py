"""Records the answers of a real cloud anew: `python -m tests.backends.openstack.record [GROUP ...]`.

Needs the test cloud (`python -m tests.openstack.cloud up`), its folder in TEST_CLOUD_HOME, where the process ids of its
services are, and its clouds.yaml in OS_CLIENT_CONFIG_FILE. README.md in `recorded/` says more.
"""

import logging
import sys

from tests.backends.openstack import (
    record_consoles,
    record_disks,
    record_lists,
    record_placement,
    record_quotas,
    record_resources,
    record_servers,
)
from tests.backends.openstack.real_cloud import Cloud

logger = logging.getLogger(__name__)

GROUPS = {
    function.__name__: function
    for function in (
        record_servers.create,
        record_servers.power,
        record_servers.hosts_that_die,
        record_servers.resize,
        record_servers.resizes_whose_host_dies,
        record_servers.confirm_without_host,
        record_servers.rebuild,
        record_servers.delete,
        record_servers.other_hands,
        record_resources.snapshots,
        record_resources.volumes,
        record_resources.attachments,
        record_resources.interfaces,
        record_consoles.consoles,
        record_placement.placement,
        record_disks.extensions,
        record_disks.boots,
        record_quotas.quotas,
        record_quotas.image_quotas,
        record_quotas.rate_limits,
        record_lists.lists,
        record_lists.down_cell,
        record_lists.refusals,
        record_lists.states,
    )
}


def main() -> None:
    """Play the groups that the command line names, or all."""
    logging.basicConfig(level=logging.WARNING)
    logger.setLevel(logging.INFO)
    cloud = Cloud()
    for name in sys.argv[1:] or GROUPS:
        logger.info("%s", name)
        GROUPS[name](cloud)


if __name__ == "__main__":
    main()
