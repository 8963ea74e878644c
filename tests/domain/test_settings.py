"""The settings: their documented defaults, and one clear line for a wrong value."""

import os
from pathlib import Path
from typing import Any

import pytest

from domain.settings import Settings, load_settings
from tests.conftest import make_settings

DEFAULTS = {
    "app_name": "OpenStack VM API",
    "debug": False,
    "log_level": "INFO",
    "database_url": "postgresql+asyncpg://postgres:postgres@localhost:5432/vmapi",
    "db_pool_size": 10,
    "db_max_overflow": 20,
    "db_echo": False,
    "secret_key": None,
    "secret_key_fallbacks": (),
    "algorithm": "HS256",
    "access_token_expire_minutes": 30,
    "refresh_token_expire_days": 7,
    "oidc_issuer": None,
    "oidc_audience": None,
    "oidc_username_claim": "preferred_username",
    "oidc_role_claim": None,
    "oidc_admin_value": None,
    "mock_build_delay": 5.0,
    "mock_start_delay": 2.0,
    "mock_stop_delay": 2.0,
    "mock_reboot_delay": 3.0,
    "mock_resize_delay": 5.0,
    "mock_delete_delay": 2.0,
    "mock_snapshot_delay": 4.0,
    "mock_error_rate": 0.0,
    "mock_transient_rate": 0.0,
    "default_page_size": 20,
    "max_page_size": 100,
    "compute_backend": "mock",
    "temporal_namespace": "default",
    "temporal_task_queue": "vm-lifecycle",
    "temporal_api_key": None,
    "resize_confirm_window": 0,
    "login_expire_days": 30,
    "registration": "open",
    "audit_retention_days": 365,
    "cors_allow_origins": (),
    "api_host": "127.0.0.1",
    "api_port": 8000,
    "api_processes": 1,
    "api_keep_alive": 75,
    "api_connections_per_address": None,
    "temporal_port": 7233,
    "temporal_ui_port": 8233,
    "data_dir": Path(".data"),
}
WRONG_VALUES = {
    "DEBUG": "perhaps",
    "LOG_LEVEL": "LOUD",
    "DATABASE_URL": "sqlite:///vms.db",
    "DB_POOL_SIZE": "0",
    "DB_MAX_OVERFLOW": "-1",
    "SECRET_KEY": "too-short",
    "SECRET_KEY_FALLBACKS": f"{'k' * 40},too-short",
    "ALGORITHM": "none",
    "ACCESS_TOKEN_EXPIRE_MINUTES": "0",
    "REFRESH_TOKEN_EXPIRE_DAYS": "soon",
    "LOGIN_EXPIRE_DAYS": "0",
    "REGISTRATION": "ajar",
    "AUDIT_RETENTION_DAYS": "29",
    "MOCK_BUILD_DELAY": "-1",
    "MOCK_START_DELAY": "nan",
    "MOCK_STOP_DELAY": "inf",
    "MOCK_ERROR_RATE": "1.5",
    "MOCK_TRANSIENT_RATE": "often",
    "DEFAULT_PAGE_SIZE": "0",
    "MAX_PAGE_SIZE": "many",
    "COMPUTE_BACKEND": "abacus",
    "API_PORT": "70000",
    "API_PROCESSES": "0",
    "API_KEEP_ALIVE": "0",
    "API_CONNECTIONS_PER_ADDRESS": "0",
    "TEMPORAL_PORT": "0",
    "TEMPORAL_TLS_CLIENT_CERT": "no/such/file.pem",
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting in the environment, and no `.env` in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load_settings()
    actual = {name: getattr(settings, name) for name in DEFAULTS if name in Settings.model_fields}
    assert actual == {name: DEFAULTS[name] for name in actual}


def test_every_setting_has_a_default() -> None:
    assert load_settings()


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES.items())
def test_a_wrong_value_ends_the_process_with_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        load_settings()
    line = str(end.value.code)
    assert line.startswith(f"Wrong setting {name}: ")
    assert len(line.splitlines()) == 1
    assert line.removeprefix(f"Wrong setting {name}: ").strip()


@pytest.mark.parametrize("place", ["the environment", "a file"])
def test_the_name_of_an_admin_is_no_setting_any_more_and_the_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    if place == "a file":
        (tmp_path / ".env").write_text("ADMIN_USERNAME=ada\n")
    else:
        monkeypatch.setenv("ADMIN_USERNAME", "ada")
    with pytest.raises(SystemExit) as end:
        load_settings()
    line = str(end.value.code)
    assert line.startswith("Wrong setting ADMIN_USERNAME: is gone")
    assert line.endswith(".venv/bin/python -m api.admin grant ada")
    assert len(line.splitlines()) == 1
    monkeypatch.setenv("ADMIN_USERNAME", "")  # which counts as unset
    (tmp_path / ".env").unlink(missing_ok=True)
    assert load_settings()


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("https://example.com", ("https://example.com",)),
        ("https://a.example, http://localhost:3000", ("https://a.example", "http://localhost:3000")),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("*", ("*",)),
        ("", ()),
    ],
)
def test_the_origins_of_cors_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, origins: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CORS_ALLOW_ORIGINS", value)
    assert load_settings().cors_allow_origins == origins


@pytest.mark.parametrize(
    "value",
    [
        *("example.com", "https://example.com/", "https://example.com/app", "https://*.example.com", "null", ","),
        *("*, https://example.com", "https://example.com,", "ftp://example.com", "https://me@example.com", "https://"),
        # A browser leaves out the scheme's own port and writes the host in lower case, so these would match no page.
        *("https://example.com:443", "http://example.com:80", "https://Example.com"),
    ],
)
def test_what_is_no_origin_is_rejected(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CORS_ALLOW_ORIGINS", value)
    with pytest.raises(SystemExit, match="Wrong setting CORS_ALLOW_ORIGINS: must be"):
        load_settings()


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_a_host_that_nobody_can_look_up_is_rejected(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("API_HOST", host)
    with pytest.raises(SystemExit, match="Wrong setting API_HOST: must be the name or the address of a host"):
        load_settings()


def test_a_host_has_no_white_space_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_HOST", " ::1\n")
    assert load_settings().api_host == "::1"


def test_a_pool_of_one_connection_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each background reader would hold it and wait for another."""
    monkeypatch.setenv("DB_POOL_SIZE", "1")
    load_settings()
    monkeypatch.setenv("DB_MAX_OVERFLOW", "0")
    with pytest.raises(SystemExit, match=r"^Wrong setting DB_MAX_OVERFLOW: must not be 0 if DB_POOL_SIZE is 1"):
        load_settings()


def test_a_default_page_size_above_the_maximum_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_PAGE_SIZE", "50")
    monkeypatch.setenv("MAX_PAGE_SIZE", "20")
    with pytest.raises(SystemExit, match="PAGE_SIZE"):
        load_settings()


def test_a_database_address_that_cannot_be_parsed_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@db:port/vms")
    with pytest.raises(SystemExit, match="DATABASE_URL: must have the form"):
        load_settings()


def test_the_published_placeholder_is_rejected_as_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "change-me-in-production")
    with pytest.raises(SystemExit, match=r"SECRET_KEY.*placeholder"):
        load_settings()


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL"])
def test_the_message_does_not_repeat_a_value_that_may_be_a_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "hunter2://me:hunter2@db/x"[:20])
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert "hunter2" not in str(end.value.code)


CLOUD = {"temporal_api_key": "k" * 40, "temporal_address": "cloud.example.com:7233"}


def test_printed_settings_do_not_show_secrets() -> None:
    settings = make_settings("postgresql://db/vmapi", secret_key="s" * 40, secret_key_fallbacks="f" * 40, **CLOUD)
    assert "ssss" not in repr(settings)
    assert "ffff" not in repr(settings)
    assert "kkkk" not in repr(settings)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_postgres_scheme_becomes_the_one_of_asyncpg(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://me:secret@db:5433/vms?ssl=require")
    assert load_settings().database_url == "postgresql+asyncpg://me:secret@db:5433/vms?ssl=require"


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    unset = load_settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    assert load_settings() == unset


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("log_level", "debug", "DEBUG"), ("debug", "true", True), ("mock_build_delay", "0", 0.0), ("api_port", "1", 1)],
)
def test_values_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: Any
) -> None:
    monkeypatch.setenv(name.upper(), value)
    assert getattr(load_settings(), name) == expected


@pytest.mark.parametrize("name", ["APP_NAME", "SECRET_KEY", "TEMPORAL_NAMESPACE", "DATA_DIR", "CORS_ALLOW_ORIGINS"])
def test_bytes_that_are_not_utf_8_end_the_process_with_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A server would be told them, and each connection would fail with a traceback."""
    monkeypatch.setenv(name, os.fsdecode(b"a\xff"))
    with pytest.raises(SystemExit, match=f"^Wrong setting {name}: must be UTF-8 without NUL$"):
        load_settings()


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().debug = True  # type: ignore[misc]
