"""Installs what the test cloud needs: three packages of Debian, OpenStack in an environment of its own, its drivers."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.openstack.cloud.layout import HERE, HOME, LOG, PROGRAMS

PYTHON: Final = "python3.11"  # the lock file is for this version
LOCK: Final = HERE / "requirements.txt"
RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
PACKAGES: Final = {
    "mariadb-server": Path("/usr/sbin/mariadbd"),
    "rabbitmq-server": RABBITMQ,
    "qemu-utils": Path("/usr/bin/qemu-img"),
}
POLICY: Final = Path("/usr/sbin/policy-rc.d")
PLUGIN: Final = "testcloud_drivers"
ENTRY_POINTS: Final = f"[neutron.ml2.mechanism_drivers]\ntestcloud = {PLUGIN}.neutron_driver:BindAllDriver\n"


def install() -> None:
    """Install what is missing; that takes some minutes the first time."""
    _install_packages()
    _install_openstack()
    _install_drivers()


def _install_packages() -> None:
    missing = [name for name, file in PACKAGES.items() if not file.exists()]
    if not missing:
        return
    with _no_services_of_debian():
        _run("apt", ["apt-get", "update"])
        _run("apt", ["apt-get", "install", "-y", "--no-install-recommends", *missing])


@contextmanager
def _no_services_of_debian() -> Iterator[None]:
    """Keep Debian from starting the servers that it installs."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _install_openstack() -> None:
    stamp = HOME / "venv" / "installed"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if shutil.which(PYTHON) is None:
        raise SystemExit(f"{PYTHON} is needed for OpenStack 2025.1")
    _run("pip", [PYTHON, "-m", "venv", str(HOME / "venv")])
    _run("pip", [str(PROGRAMS / "pip"), "install", "--no-deps", "--require-hashes", "-r", str(LOCK)])
    _answer_sooner()
    stamp.write_text(wanted)


def _answer_sooner() -> None:
    # oslo.messaging looks for the answer to a remote call every half second (Launchpad 2035113). With a fiftieth of a
    # second every operation takes a half to a quarter of the time.
    file = _site_packages() / "oslo_messaging" / "_drivers" / "amqpdriver.py"
    file.write_text(file.read_text().replace("time.sleep(0.5)\n", "time.sleep(0.02)\n"))


def _install_drivers() -> None:
    site, drivers = _site_packages(), HERE / "drivers"
    shutil.copy(drivers / "nova_driver.py", site / "nova" / "virt" / "testcloud.py")
    shutil.copytree(drivers, site / PLUGIN, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = site / f"{PLUGIN}-1.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)


def _site_packages() -> Path:
    return HOME / "venv" / "lib" / PYTHON / "site-packages"


def _run(name: str, command: list[str]) -> None:
    with (LOG / f"{name}.log").open("ab") as log:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode:
            raise SystemExit(f"{name} failed: see {LOG / name}.log")
