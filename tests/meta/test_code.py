"""Rules for all code: documented, short files and functions, nothing unfinished."""

import ast
from collections.abc import Iterator
from pathlib import Path

from activities.backends.protocol import ComputeBackend
from domain.data import advisory_locks
from tests.meta.files import UNFINISHED, is_generated, parsed, python_files, repo_path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 49
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
PRODUCTION_FILES = [path for path in python_files() if not repo_path(path).startswith(("tests/", "bench/"))]


def test_no_file_is_too_long() -> None:
    lengths = {repo_path(path): len(path.read_text().splitlines()) for path in python_files() if not is_generated(path)}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    """The functions in migrations/versions may be: one of them creates the whole schema."""
    too_long = []
    for path in python_files():
        if repo_path(path).startswith("migrations/versions/"):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    too_long.append(f"{repo_path(path)}: {node.name} has {length} lines")
    assert not too_long, "\n".join(too_long)


def test_every_module_and_every_public_definition_has_a_docstring() -> None:
    undocumented = []
    for path in PRODUCTION_FILES:
        tree = parsed(path)
        names = [name for name, node in _public(tree) if not ast.get_docstring(node)]
        if repo_path(path).startswith("activities/backends/"):
            names = [name for name in names if not _is_in_protocol(name.split(".")[-1])]
        if tree.body and not ast.get_docstring(tree):
            names.append("the module")
        undocumented += [f"{repo_path(path)}: {name}" for name in names]
    assert not undocumented, "\n".join(undocumented)


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


def test_nothing_is_marked_as_unfinished() -> None:
    found = {repo_path(path): UNFINISHED.findall(path.read_text()) for path in python_files()}
    assert {name: notes for name, notes in found.items() if notes} == {}


def test_all_advisory_locks_have_numbers_of_their_own_in_one_place() -> None:
    """Two locks with one number would make processes wait for each other that have nothing in common."""
    numbers = [number for name, number in vars(advisory_locks).items() if name.isupper()]
    assert len(set(numbers)) == len(numbers)
    home = Path(advisory_locks.__file__)
    constants = (node for path in PRODUCTION_FILES if path != home for node in ast.walk(parsed(path)))
    values = (node.value for node in constants if isinstance(node, ast.Constant) and isinstance(node.value, int))
    assert [value for value in values if abs(value - min(numbers)) < 1000] == []
