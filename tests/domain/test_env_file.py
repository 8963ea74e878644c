"""The settings in `.env`: how the file is read, and the variables that its values name."""

from pathlib import Path

import pytest

from domain.settings import Settings, SettingsWithoutKey, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting in the environment; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_environment_overrides_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=8001\nTEMPORAL_PORT=7001\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("TEMPORAL_PORT", "7002")
    settings = load_settings()
    assert (settings.api_port, settings.temporal_port) == (8001, 7002)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_an_env_file_that_is_not_utf_8_ends_the_process_with_one_line(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes("APP_NAME=Zoë".encode(encoding))
    with pytest.raises(SystemExit, match=r"The file \.env cannot be read: 'utf-8' codec can't decode"):
        load_settings()


def test_an_env_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=8001\nTEMPORAL_PORT=7001\n", encoding="utf-8-sig")
    settings = load_settings()
    assert (settings.api_port, settings.temporal_port) == (8001, 7001)


@pytest.mark.parametrize("line", ['SECRET_KEY="{key}', "SECRET_KEY='{key}' and more", "SECRET KEY={key}", "={key}"])
def test_a_line_of_the_env_file_that_cannot_be_read_ends_the_process_with_one_line(tmp_path: Path, line: str) -> None:
    """The line would be left out, and the setting have its default."""
    (tmp_path / ".env").write_text(f"# ours\n\n{line.format(key='k' * 40)}\nAPI_PORT=8001\n")
    with pytest.raises(SystemExit, match=r"^Line 3 of \.env cannot be read\. ") as end:
        load_settings()
    assert "kk" not in str(end.value)


def test_what_is_no_file_is_no_env_file(tmp_path: Path) -> None:
    """Docker makes a folder where a file to mount is missing."""
    (tmp_path / ".env").mkdir()
    assert load_settings().api_port == Settings.model_fields["api_port"].default


def test_a_variable_in_the_env_file_is_one_of_the_environment_or_of_a_line_above(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OURS", "the environment")
    lines = ("ABOVE=a line above", "APP_NAME=${OURS}, ${ABOVE}, ${NOPE:-a default}, $NOPE")
    (tmp_path / ".env").write_text("\n".join(lines))
    assert load_settings().app_name == "the environment, a line above, a default, $NOPE"


@pytest.mark.parametrize("lines", ["SECRET_KEY={key}${{NOPE}}", "A=${{NOPE}}\nSECRET_KEY={key}${{A}}"])
def test_a_variable_in_the_env_file_that_is_not_set_ends_the_process_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str
) -> None:
    """It would vanish from a key without a word."""
    monkeypatch.delenv("NOPE", raising=False)
    (tmp_path / ".env").write_text(lines.format(key="k" * 40))
    with pytest.raises(
        SystemExit, match=r"^Wrong setting \w+: in \.env it names \$\{NOPE\}, and there is no such"
    ) as end:
        load_settings()
    assert "kk" not in str(end.value)


def test_a_line_of_the_env_file_that_a_process_does_not_read_may_name_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment has another value, or the process signs no tokens."""
    (tmp_path / ".env").write_text("APP_NAME=${NOPE}\nSECRET_KEY=${NOPE}\n")
    monkeypatch.setenv("APP_NAME", "ours")
    assert load_settings(SettingsWithoutKey).app_name == "ours"
    monkeypatch.setenv("SECRET_KEY", "k" * 40)
    assert load_settings().app_name == "ours"
