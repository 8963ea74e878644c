""".env.example lists all settings with their defaults, so that a copy of it changes nothing."""

import re
from pathlib import Path

import pytest

from domain.limit_settings import LimitSettings
from domain.settings import Settings
from domain.temporal_settings import TemporalSettings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
LINES = EXAMPLE.read_text().splitlines()
SETTING = re.compile(r"(?P<unset>#?)(?P<name>[A-Z][A-Z_]*)=(?P<value>.*)")

# The code or `make up` checks whether these are set at all, so the example leaves them unset.
UNSET = {
    "cors_allow_origins",
    "api_connections_per_address",
    "database_url",
    "db_api_role",
    "db_worker_role",
    "forwarded_allow_ips",
    "oidc_admin_value",
    "oidc_audience",
    "oidc_issuer",
    "oidc_role_claim",
    "secret_key",
    "secret_key_fallbacks",
    "temporal_address",
    "temporal_ui_url",
    "temporal_api_key",
    "temporal_tls_server_ca",
    "temporal_tls_client_cert",
    "temporal_tls_client_key",
    "temporal_payload_keys",
    "worker_health_file",
}


def listed() -> list[tuple[int, str, str, bool]]:
    """Each setting in the file: its line number, name, value, and whether it is commented out."""
    matches = [(number, SETTING.fullmatch(line)) for number, line in enumerate(LINES)]
    return [(number, m["name"].lower(), m["value"], bool(m["unset"])) for number, m in matches if m]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_it_lists_every_setting_once_in_the_order_of_the_code() -> None:
    names = [name for _, name, _, _ in listed()]
    parts = [list(part.model_fields) for part in (LimitSettings, TemporalSettings)]  # each has a place in the file
    own = [name for name in Settings.model_fields if all(name not in part for part in parts)]
    for part in [*parts, own]:
        assert [name for name in names if name in part] == part
    assert len(names) == len(Settings.model_fields)


def test_a_comment_above_each_setting_explains_it() -> None:
    for number, name, _, _ in listed():
        explanation = LINES[number - 1]
        assert re.fullmatch(r"# \S.{3,100}", explanation), f"{name}: {explanation}"


def test_settings_without_a_default_are_commented_out() -> None:
    assert {name for _, name, _, unset in listed() if unset} == UNSET


def test_a_copy_of_it_changes_nothing() -> None:
    copied = Settings(_env_file=EXAMPLE)
    assert copied == Settings(_env_file=None)
    assert copied.model_fields_set == set(Settings.model_fields) - UNSET


@pytest.mark.parametrize("name", sorted(UNSET))
def test_the_value_of_a_commented_line_is_the_default(name: str) -> None:
    default = Settings.model_fields[name].default
    [value] = [value for _, listed_name, value, _ in listed() if listed_name == name]
    assert value == (default or "")
