"""What each room may load; `make check` reads the imports, this runs them."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.meta.files import ROOT, named, python_files

HEAVY = {"sqlalchemy", "pydantic", "pydantic_settings", "fastapi", "starlette", "asyncpg", "httpx", "activities", "api"}
PURE = [
    "domain.rules.lifecycle",
    "domain.rules.lifecycle",
    "domain.rules.messages",
    "domain.rules.errors",
    "domain.rules.diagram",
]


def loaded_by(modules: Sequence[str]) -> set[str]:
    """The top-level names that importing the modules in a new process loads."""
    program = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def modules_of(package: str) -> list[str]:
    """The package's modules, but those that run when they are imported."""
    files = [named(path) for path in python_files() if named(path).startswith(f"{package}/")]
    return [
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in files
        if not file.endswith("__main__.py")
    ]


def test_workflows_load_nothing_heavy() -> None:
    assert loaded_by(modules_of("workflows")) & HEAVY == set()


def test_the_rules_load_no_framework_at_all() -> None:
    assert loaded_by(modules_of("domain/rules")) & (HEAVY | {"temporalio"}) == set()


@pytest.mark.parametrize(
    ("package", "strangers"),
    [
        ("api", {"workflows", "activities", "worker", "local", "tests"}),
        ("activities", {"workflows", "api", "worker", "local", "fastapi", "tests"}),
        ("domain", {"workflows", "activities", "api", "worker", "local", "fastapi", "tests"}),
    ],
)
def test_a_room_does_not_load_another(package: str, strangers: set[str]) -> None:
    assert loaded_by(modules_of(package)) & strangers == set()
