"""Workers and migrations sign no tokens, so they do not know the key that does."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

import local
from domain.settings import Settings, SettingsWithoutKey, load_settings

WRONG = "too-short"  # the API would refuse to start


def test_the_key_is_read_from_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_KEY", WRONG)
    Path(".env").write_text(f"SECRET_KEY={WRONG}\nDEFAULT_PAGE_SIZE=7\n")
    settings = load_settings(SettingsWithoutKey)
    assert (settings.secret_key, settings.default_page_size) == (None, 7)
    assert WRONG not in repr(settings)


def test_all_other_settings_are_the_same() -> None:
    assert set(Settings.model_fields) - set(SettingsWithoutKey.model_fields) == {"secret_key", "secret_key_fallbacks"}


@pytest.mark.parametrize("module", ["worker", "migrations"])
async def test_a_process_without_need_for_the_key_does_not_look_at_it(module: str) -> None:
    settings = {"SECRET_KEY": WRONG, "DATABASE_URL": "mysql://nowhere/none"}
    command = [sys.executable, "-m", module]
    process = await asyncio.create_subprocess_exec(*command, cwd=local.ROOT, env=os.environ | settings, stderr=PIPE)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert err.decode().startswith("Wrong setting DATABASE_URL: ")
