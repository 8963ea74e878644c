"""What `make up` checks before it starts a server, and what its programs get of the environment."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import local
from domain.settings import Settings
from migrations.children import StartError
from tests.support.stack import free_ports

FOREIGN = {
    "PGSSLMODE": "verify-full",
    "PGSERVICE": "elsewhere",
    "TEMPORAL_ENV": "prod",
    "TEMPORAL_CONFIG_FILE": "/nowhere",
    "PYTHONSAFEPATH": "1",
    "WEB_CONCURRENCY": "4",
    "https_proxy": "http://127.0.0.1:9",
    "LD_PRELOAD": "",
}


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def settings(**values: Any) -> Settings:
    """Settings with free ports unless others are given."""
    ports = dict(zip(("api_port", "temporal_port", "temporal_ui_port"), free_ports(3), strict=True))
    return Settings(**(ports | values))


@pytest.mark.parametrize("setting", ["API_PORT", "TEMPORAL_PORT", "TEMPORAL_UI_PORT"])
def test_the_error_for_a_taken_port_names_its_setting(setting: str, taken_port: int) -> None:
    message = rf"Port {taken_port} on 127.0.0.1 \({setting}\) cannot be used: Address already in use. Free it"
    with pytest.raises(StartError, match=message), local.own_ports(settings(**{setting.lower(): taken_port})):
        pass


def test_two_settings_cannot_share_a_port() -> None:
    [port] = free_ports(1)
    same = settings(api_port=port, temporal_ui_port=port)
    with pytest.raises(StartError, match=rf"Port {port} on 127.0.0.1 \(TEMPORAL_UI_PORT\)"), local.own_ports(same):
        pass


def test_two_stacks_that_start_together_cannot_share_a_port() -> None:
    [port] = free_ports(1)
    first, second = settings(api_port=port), settings(api_port=port)
    with (
        local.own_ports(first),
        pytest.raises(StartError, match=rf"Port {port} on 127.0.0.1 \(API_PORT\) cannot be used"),
        local.own_ports(second),
    ):
        pass


def test_the_temporal_ports_are_not_checked_if_another_temporal_server_is_set(taken_port: int) -> None:
    with local.own_ports(settings(temporal_address="temporal.example:7233", temporal_port=taken_port)):
        pass


def test_the_programs_can_take_the_ports_after_the_check() -> None:
    checked = settings()
    for _ in range(2):
        with local.own_ports(checked), socket.create_server(("127.0.0.1", checked.api_port)):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::1"])  # noqa: S104 - listens for a moment only
def test_the_api_may_listen_on_other_addresses(host: str) -> None:
    with local.own_ports(settings(api_host=host)):
        pass


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_the_error_for_a_host_that_is_not_ours_names_its_setting(host: str) -> None:
    message = rf"^The host {host} cannot be used: .*\. Choose an address of this machine: make up API_HOST=\.\.\.$"
    with pytest.raises(StartError, match=message), local.own_ports(settings(api_host=host)):
        pass


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a shell that is set up for other programs, too."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    ours = {"PATH": "/bin", "LC_ALL": "C.UTF-8", "API_PORT": "1", "log_level": "DEBUG", "secret_key": "s" * 32}
    ours["SECRET_KEY_FALLBACKS"] = "o" * 32
    for name, value in (ours | FOREIGN).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("shell")
def test_the_programs_get_the_settings_and_nothing_that_is_meant_for_other_programs() -> None:
    expected = {"PATH": "/bin", "LC_ALL": "C.UTF-8", "API_PORT": "1", "log_level": "DEBUG"}
    assert local.environment(Settings(_env_file=None)) == expected


@pytest.mark.usefixtures("shell")
def test_the_programs_get_what_the_env_file_names_but_not_for_the_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They read the file, too, and would find other values in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("DBUSER", "POOL", "VAULT"):
        monkeypatch.setenv(name, "1")
    lines = ("DATABASE_URL=postgresql://${DBUSER}@db/vmapi", "DB_POOL_SIZE=${POOL:-2}", "SECRET_KEY=${VAULT}")
    (tmp_path / ".env").write_text("\n".join(lines))
    passed = local.environment(Settings(_env_file=None)).keys() & {"DBUSER", "POOL", "VAULT"}
    assert passed == {"DBUSER", "POOL"}


@pytest.mark.parametrize(
    ("content", "backend"),
    [
        ("COMPUTE_BACKEND=openstack", "openstack"),
        ('A=1\nexport  compute_backend = "openstack"\r\nB=2\r\n', "openstack"),
        ("\ufeff'COMPUTE_BACKEND'='openstack' # ours", "openstack"),
        ("\tCOMPUTE_BACKEND=openstack # ours", "openstack"),
        ("COMPUTE_BACKEND=${CLOUD:-openstack}", "openstack"),
        ("COMPUTE_BACKEND=mock", ""),
        ("#COMPUTE_BACKEND=openstack\n# COMPUTE_BACKEND=openstack", ""),
    ],
)
def test_make_finds_the_backend_in_the_env_file_as_the_settings_do(tmp_path: Path, content: str, backend: str) -> None:
    """It installs what a real cloud needs."""
    (tmp_path / ".env").write_text(content, encoding="utf-8")
    command = ["make", "--file", str(local.ROOT / "Makefile"), "--eval", "backend: ; @echo $(BACKEND)", "backend"]
    environment = {"PATH": os.environ["PATH"]}
    made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == backend
    assert Settings(_env_file=tmp_path / ".env").compute_backend == (backend or "mock")


@pytest.mark.usefixtures("shell")
def test_with_the_users_own_database_the_programs_get_the_variables_of_its_client() -> None:
    own = Settings(_env_file=None, database_url="postgresql://db.example/vmapi")
    passed = local.environment(own).keys() & FOREIGN.keys()
    assert passed == {"PGSSLMODE", "PGSERVICE"}


@pytest.mark.usefixtures("shell")
def test_with_a_real_cloud_the_programs_get_the_variables_of_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CLOUD", "ours")
    assert "OS_CLOUD" not in local.environment(Settings(_env_file=None))
    assert local.environment(Settings(_env_file=None, compute_backend="openstack"))["OS_CLOUD"] == "ours"
