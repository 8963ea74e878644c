"""What the tests of both generated clients share: the document, and running a command."""

import json
import subprocess
from pathlib import Path

from api.app import create_app
from tests.conftest import make_settings

HERE = Path(__file__).parent


def write_document(folder: Path) -> Path:
    """Write the OpenAPI document into the folder; returns its path."""
    path = folder / "openapi.json"
    path.write_text(json.dumps(create_app(make_settings("postgresql://unused/unused")).openapi()))
    return path


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command; if it fails, its output is the reason."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
