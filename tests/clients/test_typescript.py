"""A TypeScript client, and the linters of OpenAPI documents. `make clients` installs both and runs these tests."""

import subprocess
from pathlib import Path

import pytest

from tests.clients.commands import HERE, run, write_document
from tests.support.stack import Stack

FOLDER = HERE / "typescript"
TOOLS = FOLDER / "node_modules/.bin"

pytestmark = pytest.mark.skipif(not TOOLS.exists(), reason="make clients")


def test_the_linters_find_nothing(tmp_path: Path) -> None:
    document = write_document(tmp_path)
    rules = FOLDER / ".spectral.yaml"
    run(TOOLS / "spectral", "lint", document, "--ruleset", rules, "--fail-severity=hint", cwd=FOLDER)
    command = (TOOLS / "redocly", "lint", document, "--format=summary")
    linted = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
    assert "is valid" in linted.stderr, linted.stderr
    assert "You have" not in linted.stderr, linted.stderr  # it would end with: You have 3 warnings


def test_a_generated_client_is_typed_and_does_everything_to_a_vm(stack: Stack, tmp_path: Path) -> None:
    document = write_document(tmp_path)
    run(TOOLS / "openapi-typescript", document, "--output", FOLDER / "api.d.ts", cwd=FOLDER)
    run(TOOLS / "tsc", cwd=FOLDER)
    run("node", FOLDER / "built/lifecycle.js", stack.url.removesuffix("/api/v1"), cwd=FOLDER)
