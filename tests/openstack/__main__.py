"""Runs the tests of a real cloud: `python -m tests.openstack [PYTEST ARGUMENT ...]`, or `make test-openstack`.

With OS_CLOUD set they use that cloud. Otherwise they use the test cloud, which is started, and stopped afterwards if it
did not run before.
"""

import os
import sys

import pytest

from tests.openstack.cloud import __main__ as test_cloud
from tests.openstack.cloud.layout import CLOUDS_YAML, HOME, MEMBER, OPERATOR

SUITES = ["tests/backends/contract", "tests/openstack"]


def main() -> int:
    """Run them, and return the exit code."""
    arguments = ["--openstack", "--durations=0", *(sys.argv[1:] or SUITES)]
    if os.environ.get("OS_CLOUD"):
        return pytest.main(arguments)
    was_up = test_cloud.is_up()
    try:
        test_cloud.up()
        os.environ |= {"OS_CLOUD": MEMBER, "OS_OPERATOR_CLOUD": OPERATOR, "TEST_CLOUD_HOME": str(HOME)}
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(CLOUDS_YAML)
        return pytest.main(arguments)
    finally:
        if not was_up:
            test_cloud.down()


if __name__ == "__main__":
    sys.exit(main())
