"""Writes the configuration of the test cloud's services from the templates in `etc`."""

from collections.abc import Iterable
from string import Template
from typing import Final

from tests.openstack.cloud.layout import (
    CLOUDS_YAML,
    DATABASE_PORT,
    ETC,
    HERE,
    HOME,
    HOSTS,
    LOOPBACK,
    MEMBER,
    MESSAGES_PORT,
    OPERATOR,
    PASSWORD,
    PROGRAMS,
    VAR,
)

FOLDERS: Final = (
    *(f"{service}/lock" for service in ("keystone", "placement", "glance", "nova", "neutron", "cinder")),
    *("glance/images", "glance/staging", "glance/tasks", "rabbitmq/mnesia"),
    *("cinder/coordination", "cinder/volumes", "cinder/backups"),
    *(f"nova/{host}" for host in HOSTS),
)


def database(user: str, name: str = "") -> str:
    """Return the address of a service's database."""
    return f"mysql+pymysql://{user}:{PASSWORD}@{LOOPBACK}:{DATABASE_PORT}/{name or user}?charset=utf8"


def write_configuration() -> None:
    """Write all files, and create the folders that the services need."""
    for folder in FOLDERS:
        (VAR / folder).mkdir(parents=True, exist_ok=True)
    _write("keystone/keystone.conf", "keystone", ["keystone.conf", "common.conf"])
    _write("placement/placement.conf", "placement", ["placement.conf", "common.conf"])
    _write("glance/glance-api.conf", "glance", ["glance-api.conf", "common.conf"])
    _write("nova/nova.conf", "nova", ["nova.conf", "nova-control.conf", "common.conf"], host="control")
    for host in HOSTS:
        _write(f"nova/nova-{host}.conf", "nova", ["nova.conf", "common.conf"], host=host)
        _remove_database(f"nova/nova-{host}.conf")
    _write("neutron/neutron.conf", "neutron", ["neutron.conf", "common.conf"])
    _write("cinder/cinder.conf", "cinder", ["cinder.conf", "common.conf"])
    _write("rabbitmq/rabbitmq.conf", "openstack", ["rabbitmq.conf"])
    (ETC / "rabbitmq" / "enabled_plugins").write_text("[].\n")
    CLOUDS_YAML.write_text(_template("clouds.yaml").substitute(member=MEMBER, operator=OPERATOR, password=PASSWORD))


def _write(path: str, user: str, templates: Iterable[str], **values: str) -> None:
    values |= {
        "user": user,
        "password": PASSWORD,
        "login": _template("login.conf").substitute(user=user, password=PASSWORD),
        "database": database(user),
        "api_database": database("nova", "nova_api"),
        "messages": f"rabbit://openstack:{PASSWORD}@{LOOPBACK}:{MESSAGES_PORT}/",
        "messages_port": str(MESSAGES_PORT),
        "etc": str(ETC),
        "var": str(VAR),
        "programs": str(PROGRAMS),
        "defaults": str(HOME / "venv" / "etc"),
    }
    file = ETC / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(_template(name).substitute(values) for name in templates))


def _template(name: str) -> Template:
    return Template((HERE / "etc" / name).read_text())


def _remove_database(path: str) -> None:
    before, _, after = (ETC / path).read_text().partition("[database]")
    (ETC / path).write_text(before + after[after.index("[") :])
