"""The processes of the test cloud, in the order in which they start."""

from pathlib import Path
from typing import Final

from tests.openstack.cloud.daemons import Daemon
from tests.openstack.cloud.installation import RABBITMQ
from tests.openstack.cloud.layout import (
    DATABASE_PORT,
    ETC,
    HOME,
    HOSTS,
    LOG,
    LOOPBACK,
    MESSAGES_PORT,
    NAMES_PORT,
    PORTS,
    PROGRAMS,
    RUN,
    SOCKET,
    VAR,
)

_ERLANG: Final = {"ERL_EPMD_PORT": str(NAMES_PORT), "ERL_EPMD_ADDRESS": LOOPBACK}
_RABBITMQ: Final = _ERLANG | {
    "HOME": str(VAR / "rabbitmq"),
    "RABBITMQ_NODENAME": "testcloud@localhost",
    "RABBITMQ_CONFIG_FILE": str(ETC / "rabbitmq" / "rabbitmq.conf"),
    "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    "RABBITMQ_ENABLED_PLUGINS_FILE": str(ETC / "rabbitmq" / "enabled_plugins"),
    "RABBITMQ_MNESIA_BASE": str(VAR / "rabbitmq" / "mnesia"),
    "RABBITMQ_LOG_BASE": str(LOG),
    "RABBITMQ_LOGS": "-",
    "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
    "RABBITMQ_NODE_PORT": str(MESSAGES_PORT),
    "RABBITMQ_DIST_PORT": str(MESSAGES_PORT + 20_000),
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} "
    "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
}
_MARIADB: Final = (
    "/usr/sbin/mariadbd",
    "--no-defaults",
    "--user=root",
    f"--datadir={VAR / 'mysql'}",
    f"--socket={SOCKET}",
    f"--pid-file={RUN / 'mysqld.own.pid'}",
    f"--bind-address={LOOPBACK}",
    f"--port={DATABASE_PORT}",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--performance-schema=0",
    "--max-connections=800",
    "--innodb-buffer-pool-size=256M",
    "--innodb-log-file-size=64M",
    # This cloud may lose its last second when the machine stops. It must be fast.
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-flush-method=fsync",
)


def _service(name: str, program: str, config: str, port: int | None = None) -> Daemon:
    return Daemon(name, (str(PROGRAMS / program), "--config-file", str(ETC / config)), port)


def _web(name: str, folder: Path) -> Daemon:
    """A service that has no web server of its own."""
    options = ["--master", "--processes", "1", "--threads", "4", "--enable-threads", "--die-on-term", "--lazy-apps"]
    options += ["--need-app", "--buffer-size", "65535", "--disable-logging", "--add-header", "Connection: close"]
    address = ["--http-socket", f"{LOOPBACK}:{PORTS[name]}", "--module", f"{name}.wsgi.api:application"]
    command = (str(PROGRAMS / "uwsgi"), *address, "--home", str(HOME / "venv"), "--thunder-lock", *options)
    return Daemon(name, command, PORTS[name], {f"OS_{name.upper()}_CONFIG_DIR": str(folder)})


MARIADB: Final = Daemon("mariadb", _MARIADB, DATABASE_PORT)
EPMD: Final = Daemon("epmd", ("/usr/bin/epmd", "-address", LOOPBACK, "-port", str(NAMES_PORT)), NAMES_PORT)
MESSAGES: Final = Daemon("rabbitmq", (str(RABBITMQ),), MESSAGES_PORT, _RABBITMQ)
KEYSTONE: Final = _web("keystone", ETC / "keystone")
SERVICES: Final = (
    _web("placement", ETC / "placement"),
    _service("glance-api", "glance-api", "glance/glance-api.conf", PORTS["glance"]),
    _service("neutron-server", "neutron-server", "neutron/neutron.conf", PORTS["neutron"]),
    _service("nova-conductor", "nova-conductor", "nova/nova.conf"),
    _service("nova-scheduler", "nova-scheduler", "nova/nova.conf"),
    _service("nova-api", "nova-api-os-compute", "nova/nova.conf", PORTS["nova"]),
    _service("cinder-api", "cinder-api", "cinder/cinder.conf", PORTS["cinder"]),
    _service("cinder-scheduler", "cinder-scheduler", "cinder/cinder.conf"),
    _service("cinder-volume", "cinder-volume", "cinder/cinder.conf"),
    _service("cinder-backup", "cinder-backup", "cinder/cinder.conf"),
    *(_service(f"nova-{host}", "nova-compute", f"nova/nova-{host}.conf") for host in HOSTS),
)
"""All that can start at the same time, once the databases, the messages and Keystone are there."""
DAEMONS: Final = {daemon.name: daemon for daemon in (MARIADB, EPMD, MESSAGES, KEYSTONE, *SERVICES)}
