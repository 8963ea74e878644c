"""Rules for all code: documented, short files and functions, nothing unfinished."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.backends.protocol import ComputeBackend
from domain.data import advisory_locks
from tests.meta.files import UNFINISHED, is_generated, parsed, python_files, repo_path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 49
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
PRODUCTION_FILES = [path for path in python_files() if not repo_path(path).startswith(("tests/", "bench/"))]
each_file = pytest.mark.parametrize("path", python_files(), ids=repo_path)


@each_file
def test_no_file_is_too_long(path: Path) -> None:
    assert is_generated(path) or len(path.read_text().splitlines()) <= MAX_FILE_LINES


@each_file
def test_no_function_is_too_long(path: Path) -> None:
    if repo_path(path).startswith("migrations/versions/"):
        return  # one function creates the whole schema
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", PRODUCTION_FILES, ids=repo_path)
def test_every_public_definition_has_a_docstring(path: Path) -> None:
    tree = parsed(path)
    undocumented = [name for name, node in _public(tree) if not ast.get_docstring(node)]
    if repo_path(path).startswith("activities/backends/"):
        undocumented = [name for name in undocumented if not _is_in_protocol(name.split(".")[-1])]
    assert ast.get_docstring(tree) or not tree.body
    assert undocumented == []


def _is_in_protocol(name: str) -> bool:
    """Whether the backend protocol documents a method, so that its implementations need not."""
    return bool(getattr(getattr(ComputeBackend, name, None), "__doc__", None))


def _public(parent: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and not _is_overload(node):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{node.name}.")


def _is_overload(node: Definition) -> bool:
    return "overload" in {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}


@each_file
def test_nothing_is_marked_as_unfinished(path: Path) -> None:
    assert UNFINISHED.findall(path.read_text()) == []


def test_all_advisory_locks_have_numbers_of_their_own_in_one_place() -> None:
    """Two locks with one number would make processes wait for each other that have nothing in common."""
    numbers = [number for name, number in vars(advisory_locks).items() if name.isupper()]
    assert len(set(numbers)) == len(numbers)
    home = Path(advisory_locks.__file__)
    constants = (node for path in PRODUCTION_FILES if path != home for node in ast.walk(parsed(path)))
    values = (node.value for node in constants if isinstance(node, ast.Constant) and isinstance(node.value, int))
    assert [value for value in values if abs(value - min(numbers)) < 1000] == []
