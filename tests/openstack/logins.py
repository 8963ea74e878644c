"""How drills and measurements log in to the cloud, and how this service does: OS_CLOUD, or else the test cloud."""

import os

import openstack
from openstack.connection import Connection

from tests.openstack.cloud.layout import CLOUDS_YAML, MEMBER, OPERATOR


def settings() -> dict[str, str]:
    """Return the environment variables with which this service uses the cloud."""
    os.environ.setdefault("OS_CLIENT_CONFIG_FILE", str(CLOUDS_YAML))  # for this process, too
    return {
        "COMPUTE_BACKEND": "openstack",
        "OS_CLOUD": os.environ.get("OS_CLOUD", MEMBER),
        "OS_CLIENT_CONFIG_FILE": os.environ["OS_CLIENT_CONFIG_FILE"],
    }


def connect(*, operator: bool = False) -> Connection:
    """Log in as this service does, or as the operator of the test cloud."""
    cloud = settings()["OS_CLOUD"]
    return openstack.connect(cloud=OPERATOR if operator else cloud)
