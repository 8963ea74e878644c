"""Import rules at run time: what a package really loads. `make check` reads only the import statements."""

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.meta.files import ROOT, python_files, repo_path

HEAVY = {"sqlalchemy", "pydantic", "pydantic_settings", "fastapi", "starlette", "asyncpg", "httpx", "activities", "api"}


def loaded_by(modules: Sequence[str]) -> set[str]:
    """The top-level packages that a new process has loaded after it imported the modules."""
    program = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def modules_of(package: str) -> list[str]:
    """The modules of a package, except those that do their work on import."""
    files = [repo_path(path) for path in python_files() if repo_path(path).startswith(f"{package}/")]
    return [
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in files
        if not file.endswith("__main__.py")
    ]


def test_workflows_load_no_heavy_package() -> None:
    assert loaded_by(modules_of("workflows")) & HEAVY == set()


def test_the_rules_load_no_framework() -> None:
    assert loaded_by(modules_of("domain/rules")) & (HEAVY | {"temporalio"}) == set()


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("api", {"workflows", "activities", "worker", "local", "tests"}),
        ("activities", {"workflows", "api", "worker", "local", "fastapi", "tests"}),
        ("vmctl", {"api", "workflows", "activities", "domain", "migrations", "fastapi", "sqlalchemy", "tests"}),
        ("domain", {"workflows", "activities", "api", "worker", "local", "fastapi", "tests"}),
    ],
)
def test_a_package_does_not_load_those_beside_or_above_it(package: str, forbidden: set[str]) -> None:
    assert loaded_by(modules_of(package)) & forbidden == set()


def test_only_the_openstack_backend_loads_the_optional_sdk() -> None:
    others = [module for module in modules_of("activities") if ".backends.openstack" not in module]
    assert loaded_by(["worker", *others]) & {"openstack", "keystoneauth1", "requests"} == set()


def contracts() -> list[dict[str, Any]]:
    """The contracts of import-linter."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return list(settings["tool"]["importlinter"]["contracts"])


def named_in(contract: dict[str, Any]) -> Iterator[str]:
    """The modules that a contract names; a layer may name several."""
    for layer in contract.get("layers", []):
        yield from layer.split(" | ")
    yield from contract.get("source_modules", [])
    yield from contract.get("forbidden_modules", [])


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: str(contract["name"]))
def test_an_import_contract_names_modules_that_exist(contract: dict[str, Any]) -> None:
    """A contract about a module that was renamed would forbid nothing."""
    modules = list(named_in(contract))
    assert modules
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
