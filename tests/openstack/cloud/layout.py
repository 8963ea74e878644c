"""Where the test cloud keeps its files, where its services listen, and its one password."""

import os
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
HOME: Final = Path(os.environ.get("TEST_CLOUD_HOME") or Path.home() / ".cache" / "openstack-vm-api" / "test-cloud")
PROGRAMS: Final = HOME / "venv" / "bin"
ETC: Final = HOME / "etc"
LOG: Final = HOME / "log"
RUN: Final = HOME / "run"
VAR: Final = HOME / "var"
CLOUDS_YAML: Final = ETC / "clouds.yaml"

MEMBER: Final = "testcloud"
"""The cloud in clouds.yaml whose user is a member of the project demo."""
OPERATOR: Final = "testcloud-admin"
"""The same cloud for its operator, who may do everything."""
PASSWORD: Final = "secret"

LOOPBACK: Final = "127.0.0.1"
DATABASE_PORT: Final = 13306
MESSAGES_PORT: Final = 15673
NAMES_PORT: Final = 14369
"""Of Erlang's name server, which RabbitMQ needs."""
PORTS: Final = {"keystone": 5000, "placement": 8778, "glance": 9292, "nova": 8774, "neutron": 9696, "cinder": 8776}
HOSTS: Final = ("compute1", "compute2")
SOCKET: Final = RUN / "mysql.sock"


def create_folders() -> None:
    """Create the folders of everything."""
    for folder in (ETC, LOG, RUN, VAR):
        folder.mkdir(parents=True, exist_ok=True)
