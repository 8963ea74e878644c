"""The repository's own files, as a fresh checkout has them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ("api", "workflows", "activities", "domain", "migrations", "bench", "tests", "worker.py", "local.py")
LEFT_TO_DO = re.compile(r"\b(?:TOD[O]|FIXM[E]|X{3})\b")
NOT_OURS = {".git"} | {line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if "*" not in line}


@cache
def all_files() -> list[Path]:
    """Every file but what .gitignore leaves out."""
    return sorted(_walk(ROOT))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in NOT_OURS or path.suffix == ".log":
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def named(path: Path) -> str:
    """The file's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def python_files() -> list[Path]:
    """Every module of ours, tests included."""
    return [path for path in all_files() if path.suffix == ".py" and named(path).split("/")[0] in PYTHON]


def parsed(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(), filename=str(path))
