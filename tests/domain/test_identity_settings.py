"""The settings of signing keys and of the identity provider: one clear line for a wrong value."""

import pytest

from domain.settings import Settings, load_settings

KEY, OTHER = "a" * 40, "b" * 40
OIDC = {"OIDC_ISSUER": "https://login.example.com/realms/vms", "OIDC_AUDIENCE": "vm-api"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting in the environment, and no `.env` in the working directory."""
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def refusal(monkeypatch: pytest.MonkeyPatch, **values: str) -> str:
    """The line with which these settings are refused."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        load_settings()
    line = str(end.value.code)
    assert "\n" not in line
    return line


def test_fallbacks_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY_FALLBACKS", f"{KEY}, {OTHER}")
    assert [key.get_secret_value() for key in load_settings().secret_key_fallbacks] == [KEY, OTHER]


@pytest.mark.parametrize(
    "weak", ["change-me-in-production", "hunter2", f"{KEY},hunter2", f"{KEY},", ",".join([KEY] * 9)]
)
def test_a_weak_fallback_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, weak: str) -> None:
    line = refusal(monkeypatch, SECRET_KEY=KEY, SECRET_KEY_FALLBACKS=weak)
    assert line.startswith("Wrong setting SECRET_KEY_FALLBACKS: ")
    assert "hunter2" not in line
    assert KEY not in line


def test_a_stronger_algorithm_needs_longer_fallbacks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refusal(monkeypatch, SECRET_KEY="a" * 64, SECRET_KEY_FALLBACKS=OTHER, ALGORITHM="HS512")
    assert line == "Wrong setting ALGORITHM: needs SECRET_KEY_FALLBACKS of at least 64 bytes each"


@pytest.mark.parametrize("lonely", ["OIDC_ISSUER", "OIDC_AUDIENCE"])
def test_issuer_and_audience_belong_together(monkeypatch: pytest.MonkeyPatch, lonely: str) -> None:
    line = refusal(monkeypatch, **{lonely: OIDC[lonely]})
    assert line == "Wrong setting: OIDC_ISSUER and OIDC_AUDIENCE belong together: set both or neither"


def test_the_claim_of_roles_needs_the_value_of_admins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "belong together" in refusal(monkeypatch, **OIDC, OIDC_ROLE_CLAIM="groups")


def test_roles_need_an_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs OIDC_ISSUER" in refusal(monkeypatch, OIDC_ROLE_CLAIM="groups", OIDC_ADMIN_VALUE="vm-admins")


@pytest.mark.parametrize(
    "issuer",
    [
        "http://login.example.com",
        "http://169.254.169.254",
        "http://127.0.0.1.example.com",
        "https://user:secret@login.example.com",
        "https://login.example.com/?tenant=1",
        "https://login.example.com/#top",
        "https://",
        "https://[::1",
        "https://login.example.com:99999",
        "login.example.com",
        "file:///etc/passwd",
        "https://login.example.com/a b",
    ],
)
def test_an_issuer_that_others_could_pretend_to_be_is_refused(monkeypatch: pytest.MonkeyPatch, issuer: str) -> None:
    line = refusal(monkeypatch, **OIDC | {"OIDC_ISSUER": issuer})
    assert line.startswith("Wrong setting OIDC_ISSUER: must be an https URL")


@pytest.mark.parametrize(
    "issuer", ["https://login.example.com/", "http://127.0.0.1:8180/realms/vms", "http://localhost:1", "http://[::1]:1"]
)
def test_the_issuer_stays_as_the_provider_writes_it(monkeypatch: pytest.MonkeyPatch, issuer: str) -> None:
    for name, value in (OIDC | {"OIDC_ISSUER": issuer}).items():
        monkeypatch.setenv(name, value)
    assert load_settings().oidc_issuer == issuer
