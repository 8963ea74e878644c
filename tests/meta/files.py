"""The files of the repository, as in a fresh checkout."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ("api", "workflows", "activities", "domain", "migrations", "vmctl", "bench", "tests", "worker.py", "local.py")
UNFINISHED = re.compile(r"\b(?:TOD[O]|FIXM[E]|X{3})\b")
IGNORED = {".git"} | {line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if "*" not in line}


@cache
def all_files() -> list[Path]:
    """All files except those that .gitignore names."""
    return sorted(_walk(ROOT))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in IGNORED or path.suffix == ".log":
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def repo_path(path: Path) -> str:
    """The path of a file relative to the repository."""
    return path.relative_to(ROOT).as_posix()


def python_files() -> list[Path]:
    """All Python modules, tests included."""
    return [path for path in all_files() if path.suffix == ".py" and repo_path(path).split("/")[0] in PYTHON]


def is_generated(path: Path) -> bool:
    """Whether a program writes the file, whose length is nobody's choice."""
    return path.read_text().startswith("# Generated ")


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text(), filename=str(path))
