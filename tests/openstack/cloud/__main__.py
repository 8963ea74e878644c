"""Starts and stops the test cloud: `python -m tests.openstack.cloud up|down|purge`.

Needs Debian 12, root, Python 3.11 and gcc. The first start takes about four minutes, later ones half a minute. All is
kept in TEST_CLOUD_HOME (by default ~/.cache/openstack-vm-api/test-cloud).
"""

import argparse
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import openstack
from openstack.connection import Connection

from tests.openstack.cloud.configuration import write_configuration
from tests.openstack.cloud.contents import create_accounts, create_resources
from tests.openstack.cloud.databases import create_databases, create_files, create_tables
from tests.openstack.cloud.installation import install
from tests.openstack.cloud.layout import CLOUDS_YAML, ETC, LOG, OPERATOR, RUN, VAR, create_folders
from tests.openstack.cloud.services import DAEMONS, EPMD, KEYSTONE, MARIADB, MESSAGES, SERVICES

_began: Final = time.monotonic()


def up() -> None:
    """Start what does not run; the first time, install it."""
    create_folders()
    _say("packages")
    install()
    write_configuration()
    _say("databases and messages")
    create_files()
    for daemon in (MARIADB, EPMD):
        daemon.start()
        daemon.wait()
    MESSAGES.start()
    create_databases()
    create_tables()
    _say("services")
    KEYSTONE.start()
    KEYSTONE.wait()
    MESSAGES.wait()
    if not (VAR / "accounts").exists():
        create_accounts(_operator())
        (VAR / "accounts").touch()
    for daemon in SERVICES:
        daemon.start()
    for daemon in SERVICES:
        if daemon.port:
            daemon.wait()
    create_resources(_operator())
    _say(f"ready: export OS_CLIENT_CONFIG_FILE={CLOUDS_YAML} OS_CLOUD=testcloud")


def down() -> None:
    """Stop everything, what others need last."""
    with ThreadPoolExecutor(len(SERVICES)) as threads:
        list(threads.map(lambda daemon: daemon.stop(), SERVICES))
    for daemon in (KEYSTONE, MESSAGES, MARIADB, EPMD):
        daemon.stop(30)


def purge() -> None:
    """Stop everything and delete what the cloud holds, but not what is installed."""
    down()
    for folder in (ETC, LOG, RUN, VAR):
        shutil.rmtree(folder, ignore_errors=True)


def is_up() -> bool:
    """Return whether all processes run."""
    return all(daemon.pid is not None for daemon in DAEMONS.values())


def _operator() -> Connection:
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(CLOUDS_YAML)
    return openstack.connect(cloud=OPERATOR)


def _say(what: str) -> None:
    print(f"[{time.monotonic() - _began:5.1f} s] {what}", flush=True)  # noqa: T201


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.openstack.cloud", description=__doc__)
    commands = {"up": up, "down": down, "purge": purge}
    parser.add_argument("command", choices=commands)
    commands[parser.parse_args().command]()


if __name__ == "__main__":
    main()
