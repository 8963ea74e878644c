"""The test cloud's databases: MariaDB's files, one database for each service, and their tables."""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.openstack.cloud.configuration import database
from tests.openstack.cloud.layout import ETC, LOG, LOOPBACK, PASSWORD, PORTS, PROGRAMS, SOCKET, VAR

DATABASES: Final = ("keystone", "placement", "glance", "nova_api", "nova", "nova_cell0", "neutron", "cinder")
KEYSTONE: Final = ("keystone-manage", "--config-file", str(ETC / "keystone" / "keystone.conf"))
NOVA: Final = ("nova-manage", "--config-file", str(ETC / "nova" / "nova.conf"))
ADDRESS: Final = f"http://{LOOPBACK}:{PORTS['keystone']}/v3/"
TABLES: Final[dict[str, Sequence[Sequence[str]]]] = {
    "keystone": [
        (*KEYSTONE, "db_sync"),
        (*KEYSTONE, "fernet_setup", "--keystone-user", "root", "--keystone-group", "root"),
        (*KEYSTONE, "credential_setup", "--keystone-user", "root", "--keystone-group", "root"),
        (
            *(*KEYSTONE, "bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", "RegionOne"),
            *(word for kind in ("admin", "internal", "public") for word in (f"--bootstrap-{kind}-url", ADDRESS)),
        ),
    ],
    "nova": [
        (*NOVA, "api_db", "sync"),
        (*NOVA, "cell_v2", "map_cell0", "--database_connection", database("nova", "nova_cell0")),
        (*NOVA, "cell_v2", "create_cell", "--name", "cell1"),
        (*NOVA, "db", "sync"),
    ],
    "neutron": [("neutron-db-manage", "--config-file", str(ETC / "neutron" / "neutron.conf"), "upgrade", "heads")],
    "placement": [("placement-manage", "--config-file", str(ETC / "placement" / "placement.conf"), "db", "sync")],
    "cinder": [("cinder-manage", "--config-file", str(ETC / "cinder" / "cinder.conf"), "db", "sync")],
    "glance": [("glance-manage", "--config-file", str(ETC / "glance" / "glance-api.conf"), "db_sync")],
}
"""The programs of each service that create its tables, in their order. The slowest come first."""


def create_files() -> None:
    """Create MariaDB's files if there are none."""
    folder = VAR / "mysql"
    if (folder / "mysql").exists():
        return
    options = ["--no-defaults", "--user=root", f"--datadir={folder}", "--skip-test-db"]
    _run("mariadb-install", ["mariadb-install-db", *options, "--auth-root-authentication-method=normal"])


def create_databases() -> None:
    """Create the databases and their users."""
    statements = [
        f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb3;"
        f"GRANT ALL ON {name}.* TO '{name.split('_')[0]}'@'{LOOPBACK}' IDENTIFIED BY '{PASSWORD}';"
        for name in DATABASES
    ]
    _run("databases", ["mariadb", "--no-defaults", "-uroot", "-S", str(SOCKET), "-e", "".join(statements)])


def create_tables() -> None:
    """Create the tables of all services, three services at a time."""
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(_create_tables_of, TABLES))


def _create_tables_of(service: str) -> None:
    done = VAR / service / "tables"
    done.mkdir(parents=True, exist_ok=True)
    for number, (program, *arguments) in enumerate(TABLES[service]):
        if not (
            done / str(number)
        ).exists():  # one that is done is not repeated: a second cell would have the same name
            _run(f"tables-{service}", [str(PROGRAMS / program), *arguments])
            (done / str(number)).touch()


def _run(name: str, command: list[str]) -> None:
    with (LOG / f"{name}.log").open("ab") as log:
        if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
            raise SystemExit(f"{command[0]} failed: see {LOG / name}.log")
