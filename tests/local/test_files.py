"""What `make up` checks and makes before it starts anything."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import local
from domain.settings import Settings


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def settings(**values: Any) -> Settings:
    """Settings whose ports are free unless given."""
    ports = {name: free_port() for name in ("api_port", "temporal_port", "temporal_ui_port")}
    return Settings(**(ports | values))


def test_the_secret_is_made_once_and_is_for_its_owner_only(tmp_path: Path) -> None:
    secret = local.secret_key(tmp_path)
    assert len(secret) >= 32
    assert local.secret_key(tmp_path) == secret
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_each_data_directory_gets_a_secret_of_its_own(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert local.secret_key(one) != local.secret_key(other)


def test_a_secret_that_was_never_finished_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "secret_key.new").touch(mode=0o600)
    assert len(local.secret_key(tmp_path)) >= 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_a_data_directory_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    local.claim(tmp_path)
    with pytest.raises(local.StartError, match=r"Another `make up`, process \d+, runs on .*: stop it or set DATA_DIR"):
        local.claim(tmp_path)


@pytest.mark.parametrize("setting", ["API_PORT", "TEMPORAL_PORT", "TEMPORAL_UI_PORT"])
def test_a_taken_port_is_named_with_its_setting(setting: str, taken: int) -> None:
    message = rf"Port {taken} on 127.0.0.1 \({setting}\) cannot be used: Address already in use. Free it"
    with pytest.raises(local.StartError, match=message):
        local.check_ports(settings(**{setting.lower(): taken}))


def test_two_settings_cannot_share_a_port() -> None:
    port = free_port()
    with pytest.raises(local.StartError, match=rf"Port {port} on 127.0.0.1 \(TEMPORAL_UI_PORT\)"):
        local.check_ports(settings(api_port=port, temporal_ui_port=port))


def test_the_ports_of_a_given_temporal_server_are_not_asked_for(taken: int) -> None:
    local.check_ports(settings(temporal_address="temporal.example:7233", temporal_port=taken))


def test_free_ports_are_free_after_the_check() -> None:
    wanted = settings()
    local.check_ports(wanted)
    local.check_ports(wanted)


@pytest.mark.parametrize("host", ["0.0.0.0", "::1"])  # noqa: S104 - listened on for a moment
def test_the_api_may_listen_on_other_addresses(host: str) -> None:
    local.check_ports(settings(api_host=host))
