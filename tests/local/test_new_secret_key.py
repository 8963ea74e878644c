"""The command that gives the local stack a new signing key."""

import os
import subprocess
import sys
from pathlib import Path

import local
from migrations import data_dir, embedded_postgres
from tests.conftest import make_settings

ROOT = Path(__file__).parents[2]


def change_key(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command for a data directory."""
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder)} | settings
    command = [sys.executable, "-m", "migrations.new_secret_key"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_stack_signs_with_the_new_key_and_accepts_the_old_one(tmp_path: Path) -> None:
    settings = make_settings("postgresql://unused/unused", secret_key=None)
    before = local.signing_keys(settings, tmp_path)
    done = change_key(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert before["SECRET_KEY"] not in done.stdout
    after = local.signing_keys(settings, tmp_path)
    assert after["SECRET_KEY"] not in {before["SECRET_KEY"], ""}
    assert after["SECRET_KEY_FALLBACKS"] == before["SECRET_KEY"]


def test_the_key_of_a_running_stack_stays_as_it_is(tmp_path: Path) -> None:
    folder = data_dir.prepare(tmp_path / "data", checkout=ROOT, database_user=embedded_postgres.USER)
    key = data_dir.secret_key(folder)
    refused = change_key(folder)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Another `make up`, process ")
    assert data_dir.secret_key(folder) == key


def test_a_key_in_the_settings_is_left_to_its_owner(tmp_path: Path) -> None:
    refused = change_key(tmp_path, SECRET_KEY="k" * 40)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("SECRET_KEY is set")
    assert list(tmp_path.iterdir()) == []


def test_keys_of_the_settings_reach_the_api(tmp_path: Path) -> None:
    settings = make_settings("postgresql://unused/unused", secret_key="s" * 40, secret_key_fallbacks="o" * 40)
    assert local.signing_keys(settings, tmp_path) == {"SECRET_KEY": "s" * 40, "SECRET_KEY_FALLBACKS": "o" * 40}
    assert list(tmp_path.iterdir()) == []
