"""What `make up` checks and creates before it starts a server: ports, the data directory, the secret key."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import local
from domain.settings import Settings


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def settings(**values: Any) -> Settings:
    """Settings with free ports unless others are given."""
    ports = {name: free_port() for name in ("api_port", "temporal_port", "temporal_ui_port")}
    return Settings(**(ports | values))


def test_the_secret_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    secret = local.secret_key(tmp_path)
    assert len(secret) >= 32
    assert local.secret_key(tmp_path) == secret
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_each_data_directory_gets_its_own_secret_key(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert local.secret_key(first) != local.secret_key(second)


def test_an_unfinished_secret_key_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret_key.new").touch(mode=0o600)
    assert len(local.secret_key(tmp_path)) >= 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_a_data_directory_is_used_by_one_stack_at_a_time(tmp_path: Path) -> None:
    local.lock_data_dir(tmp_path)
    message = r"Another `make up`, process \d+, is using .*: stop it or set DATA_DIR"
    with pytest.raises(local.StartError, match=message):
        local.lock_data_dir(tmp_path)


@pytest.mark.parametrize("setting", ["API_PORT", "TEMPORAL_PORT", "TEMPORAL_UI_PORT"])
def test_the_error_for_a_taken_port_names_its_setting(setting: str, taken_port: int) -> None:
    message = rf"Port {taken_port} on 127.0.0.1 \({setting}\) cannot be used: Address already in use. Free it"
    with pytest.raises(local.StartError, match=message):
        local.check_ports(settings(**{setting.lower(): taken_port}))


def test_two_settings_cannot_share_a_port() -> None:
    port = free_port()
    with pytest.raises(local.StartError, match=rf"Port {port} on 127.0.0.1 \(TEMPORAL_UI_PORT\)"):
        local.check_ports(settings(api_port=port, temporal_ui_port=port))


def test_the_temporal_ports_are_not_checked_if_another_temporal_server_is_set(taken_port: int) -> None:
    local.check_ports(settings(temporal_address="temporal.example:7233", temporal_port=taken_port))


def test_the_ports_are_free_again_after_the_check() -> None:
    checked = settings()
    local.check_ports(checked)
    local.check_ports(checked)


@pytest.mark.parametrize("host", ["0.0.0.0", "::1"])  # noqa: S104 - listens for a moment only
def test_the_api_may_listen_on_other_addresses(host: str) -> None:
    local.check_ports(settings(api_host=host))
