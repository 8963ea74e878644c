"""How the code is written: documented, in small pieces, with nothing left to do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.backends.protocol import ComputeBackend
from tests.meta.files import LEFT_TO_DO, named, parsed, python_files

TOO_LONG_A_FILE = 400  # lines
LONGEST_FUNCTION = 50
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
OURS = [path for path in python_files() if not named(path).startswith(("tests/", "bench/"))]
each_file = pytest.mark.parametrize("path", python_files(), ids=named)


@each_file
def test_a_file_fits_one_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) < TOO_LONG_A_FILE


@each_file
def test_a_function_fits_one_look(path: Path) -> None:
    if named(path).startswith("migrations/versions/"):
        return  # a schema is written down in one piece
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length >= LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", OURS, ids=named)
def test_whatever_is_public_says_what_it_is(path: Path) -> None:
    tree = parsed(path)
    silent = [name for name, node in _public(tree) if not ast.get_docstring(node)]
    if named(path).startswith("activities/backends/"):
        silent = [name for name in silent if not _says_the_protocol(name.split(".")[-1])]
    assert ast.get_docstring(tree) or not tree.body
    assert silent == []


def _says_the_protocol(name: str) -> bool:
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
def test_nothing_is_left_to_do(path: Path) -> None:
    assert LEFT_TO_DO.findall(path.read_text()) == []
