"""How to reach Temporal: what its SDK cannot use ends the process with one line."""

import subprocess
from pathlib import Path

import pytest

from domain.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting in the environment, and no `.env` in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("kind", ["TLS_SERVER_CA", "TLS_CLIENT_CERT"])
def test_a_file_that_may_not_be_read_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """Such as a key that only root may read; root may read all files, so the refusal is made up."""

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "root.pem").write_text("-----BEGIN CERTIFICATE-----")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    monkeypatch.setenv(f"TEMPORAL_{kind}", str(tmp_path / "root.pem"))
    with pytest.raises(SystemExit, match=f"Wrong setting TEMPORAL_{kind}: .*root.pem is not a readable file"):
        load_settings()


@pytest.mark.parametrize(
    "address",
    [
        *("temporal", ":7233", "temporal:", "temporal:0", "temporal:65536", "temporal:٧٢٣٣", "::1:7233", "[::g]:7233"),
        *("http://temporal:7233", "temporal:7233/", "me@temporal:7233", "a b:7233", "a:1,b:1", "10.0.0.256:7233"),
    ],
)
def test_an_address_of_temporal_that_its_sdk_cannot_use_is_rejected(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Each process would end with a traceback, or be told about a name that nobody can look up."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    with pytest.raises(SystemExit, match=r"Wrong setting TEMPORAL_ADDRESS: .* (host:port|IPv6 address)$"):
        load_settings()


@pytest.mark.parametrize("address", ["10.0.0.1:7233", "[::1]:65535", "ns.a1b2.tmprl.cloud:7233", "temporal_server.:1"])
def test_addresses_of_temporal(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    assert load_settings().temporal_address == address


@pytest.mark.parametrize("key", ["a b", "a\nb", "ключ", "a\x7f"])
def test_a_key_of_temporal_that_its_sdk_would_not_send_is_rejected(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    monkeypatch.setenv("TEMPORAL_API_KEY", key)
    with pytest.raises(SystemExit, match="Wrong setting TEMPORAL_API_KEY: must have visible ASCII characters only"):
        load_settings()


def test_the_last_line_end_of_a_file_belongs_to_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    monkeypatch.setenv("TEMPORAL_API_KEY", "abc.def\r\n")
    key = load_settings().temporal_api_key
    assert key
    assert key.get_secret_value() == "abc.def"


def test_links_into_the_web_ui_have_no_double_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_UI_URL", "https://temporal.example/ui/")
    assert load_settings().temporal_ui_url == "https://temporal.example/ui"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://Temporal.Example:80/", "http://temporal.example"),
        ("HTTPS://temporal.example:443/UI", "https://temporal.example/UI"),
        ("http://[::1]:8233", "http://[::1]:8233"),
        ("https://temporal.example:80", "https://temporal.example:80"),
    ],
)
def test_the_origin_of_the_web_ui_is_kept_as_a_browser_sends_it(
    monkeypatch: pytest.MonkeyPatch, url: str, kept: str
) -> None:
    monkeypatch.setenv("TEMPORAL_UI_URL", url)
    assert load_settings().temporal_ui_url == kept


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1", "temporal.example", "localhost:8233", "http://", "ftp://temporal.example", "http://a b"),
        *("http://me:secret@temporal.example", "http://temporal.example?a=1", "http://temporal.example/#a", "http://é"),
    ],
)
def test_what_is_no_address_of_the_web_ui_is_rejected(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TEMPORAL_UI_URL", url)
    with pytest.raises(SystemExit, match=r"^Wrong setting TEMPORAL_UI_URL: "):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TEMPORAL_TASK_QUEUE", "/_sys/x"),
        ("TEMPORAL_TASK_QUEUE", "x" * 201),
        ("TEMPORAL_NAMESPACE", "\u00fc"),
        ("TEMPORAL_NAMESPACE", "a\nb"),
    ],
)
def test_a_name_that_temporal_does_not_take_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"Wrong setting {name}: "):
        load_settings()


def test_a_queue_may_have_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_TASK_QUEUE", "\u00fc x")
    assert load_settings().temporal_task_queue == "\u00fc x"


@pytest.mark.parametrize("name", ["API_KEY", "TLS_SERVER_CA", "TLS_CLIENT_CERT"])
def test_a_key_or_certificate_of_temporal_without_an_address_is_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "file.pem"
    file.write_text("-----BEGIN SOMETHING-----")
    monkeypatch.setenv(f"TEMPORAL_{name}", str(file))
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_KEY", str(file) if name == "TLS_CLIENT_CERT" else "")
    with pytest.raises(SystemExit, match=f"TEMPORAL_{name} needs TEMPORAL_ADDRESS, which is not set"):
        load_settings()


@pytest.mark.parametrize("part", ["CERT", "KEY"])
def test_a_certificate_without_its_key_and_the_reverse_are_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str
) -> None:
    half = tmp_path / "half.pem"
    half.write_text("-----BEGIN SOMETHING-----")
    monkeypatch.setenv(f"TEMPORAL_TLS_CLIENT_{part}", str(half))
    with pytest.raises(SystemExit, match="both or neither"):
        load_settings()


@pytest.mark.parametrize(
    ("server_ca", "certificate", "key"),
    [("mine.key", "", ""), ("", "mine.crt", "other.key"), ("", "mine.key", "mine.crt"), ("", "mine.crt", "locked.key")],
)
def test_files_for_temporal_that_no_connection_could_use_are_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server_ca: str, certificate: str, key: str
) -> None:
    """A worker would wait for ever: the attempts to connect end like those to a server that is away."""
    for name in ("mine", "other"):
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.crt")]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=me", *files]
        subprocess.run(command, check=True, capture_output=True)
    lock = ["openssl", "pkey", "-aes256", "-passout", "pass:hunter2", "-in", str(tmp_path / "mine.key")]
    subprocess.run([*lock, "-out", str(tmp_path / "locked.key")], check=True)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")

    def give(**files: str) -> None:
        for name, file in files.items():
            monkeypatch.setenv(f"TEMPORAL_TLS_{name}", str(tmp_path / file) if file else "")

    give(SERVER_CA="other.crt", CLIENT_CERT="mine.crt", CLIENT_KEY="mine.key")
    assert load_settings().temporal_tls_client_key == tmp_path / "mine.key"
    give(SERVER_CA=server_ca, CLIENT_CERT=certificate, CLIENT_KEY=key)
    with pytest.raises(SystemExit, match=r"Wrong setting: TEMPORAL_TLS_.* (no certificate that|do not belong)"):
        load_settings()
