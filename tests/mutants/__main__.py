"""Draws a sample of all mutations and prints those that no fast test notices: `make mutants MUTANTS=60 SEED=1`.

Each mutation is put into a copy of the repository. The tests nearest to the module run first, then all fast tests of
its part of the code. A mutation that none of them notices survives: it needs a test, unless it is equal in effect.
"""

import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.mutants.mutations import Mutation, mutations_of

ROOT: Final = Path(__file__).parents[2]
TIMEOUT: Final = 900.0  # seconds; a mutation that makes a test hang has been noticed
# What carries rules, and the folders with its fast tests.
SUITES: Final = {
    "domain/rules/": ("tests/domain", "tests/activities", "tests/meta"),
    "domain/commands/": ("tests/domain", "tests/api"),
    "domain/progress/": ("tests/domain", "tests/activities", "tests/api"),
    "domain/upkeep/": ("tests/activities", "tests/api/admin"),
    "activities/": ("tests/activities",),
    "api/background/": ("tests/api",),
    "api/web/security.py": ("tests/api",),
    "api/web/admission.py": ("tests/api",),
    "api/web/idempotency.py": ("tests/api",),
}
# What only prints, and the mock cloud, which stands for a service of others.
WITHOUT_RULES: Final = ("domain/rules/diagram.py", "domain/rules/markdown.py", "activities/backends/")


def suite_of(module: Path) -> tuple[str, ...]:
    """Return the folders with the fast tests of a module; none if it carries no rules."""
    name = module.as_posix()
    suites = [folders for prefix, folders in SUITES.items() if name.startswith(prefix)]
    return suites[0] if suites and not name.startswith(WITHOUT_RULES) else ()


def all_mutations(copy: Path) -> list[Mutation]:
    """Return all mutations of all modules that carry rules."""
    modules = [path for path in sorted(copy.rglob("*.py")) if suite_of(path.relative_to(copy))]
    return [mutation for path in modules for mutation in mutations_of(path)]


def tests_of(module: Path, copy: Path) -> Iterator[list[str]]:
    """Yield the test files that are named after the module, then those that name it, then the others of its part."""
    name = re.compile(rf"\b{module.stem}\b")
    rest = [path for folder in suite_of(module) for path in sorted((copy / folder).rglob("test_*.py"))]
    for is_next in (lambda path: module.stem in path.stem, lambda path: name.search(path.read_text()), lambda _: True):
        paths = [path for path in rest if is_next(path)]
        rest = [path for path in rest if path not in paths]
        if paths:
            yield [str(path) for path in paths]


def is_noticed(mutation: Mutation, copy: Path) -> bool:
    """Return whether a fast test fails, or hangs, with the mutation."""
    source = mutation.path.read_bytes()
    mutation.path.write_bytes(mutation.apply(source))
    try:
        return any(fails(tests, copy) for tests in tests_of(mutation.path.relative_to(copy), copy))
    finally:
        mutation.path.write_bytes(source)


def fails(tests: list[str], copy: Path) -> bool:
    """Return whether one of the tests fails or hangs."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # Without bytecode files: two versions of a file that are written within a second would be taken for one.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return True
    return result.returncode != 0


def diff_of(mutation: Mutation) -> str:
    """Return the mutation as a diff."""
    source = mutation.path.read_bytes()
    before, after = (text.decode().splitlines() for text in (source, mutation.apply(source)))
    return "\n".join(list(difflib.unified_diff(before, after, lineterm="", n=0))[3:])


def main() -> None:
    """Draw, try and print."""
    count, seed = int(os.environ.get("MUTANTS", "60")), os.environ.get("SEED", "1")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        ignored = shutil.ignore_patterns(".git", ".venv", ".data", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        every = all_mutations(copy)
        sample = random.Random(seed).sample(every, min(count, len(every)))
        if fails(["tests/domain/test_lifecycle.py", "tests/domain/test_outbox.py"], copy):
            sys.exit("The tests fail without any mutation.")
        survivors = 0
        for number, mutation in enumerate(sample, 1):
            noticed = is_noticed(mutation, copy)
            survivors += not noticed
            name = f"{mutation.path.relative_to(copy)}:{mutation.line}"
            print(f"{number} of {len(sample)}: {name}: {'noticed' if noticed else 'SURVIVED'}", flush=True)
            if not noticed:
                print(diff_of(mutation), flush=True)
    print(f"{survivors} of {len(sample)} survived (of {len(every)} possible, SEED={seed})")


if __name__ == "__main__":
    main()
