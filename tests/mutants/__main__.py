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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from tests.mutants.mutations import Mutation, mutations_of

ROOT: Final = Path(__file__).parents[2]
WORKERS: Final = 2  # mutations that are tried at the same time, each in a copy of its own
TEST_TIMEOUT: Final = 300  # seconds; a mutation that makes a test hang has been noticed
TIMEOUT: Final = 3600.0  # seconds, for a process that hangs outside its tests; a busy machine must not reach it
# What carries rules, and the folders with its fast tests. The first prefix that fits counts.
SUITES: Final = {
    "domain/rules/": ("tests/domain", "tests/activities", "tests/api"),
    "domain/commands/": ("tests/domain", "tests/api", "tests/activities"),
    "domain/progress/": ("tests/domain", "tests/activities", "tests/api"),
    "domain/upkeep/": ("tests/domain", "tests/activities", "tests/api"),
    "domain/data/": ("tests/domain", "tests/activities", "tests/api", "tests/meta"),
    "activities/": ("tests/activities",),
    "api/background/": ("tests/api",),
    "api/server/": ("tests/api/server", "tests/api"),
    "api/web/": ("tests/api",),
}
# What only prints or describes, and the mock cloud, which stands for a service of others.
WITHOUT_RULES: Final = (
    *("domain/rules/diagram.py", "domain/rules/markdown.py", "domain/data/catalogue.py", "activities/backends/"),
    *("api/web/docs.py", "api/web/openapi.py", "api/web/responses.py", "api/web/models.py"),
    *("api/web/examples.py", "api/web/openapi_examples.py", "api/web/problem_"),
)
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", re.MULTILINE)


def suite_of(module: Path) -> tuple[str, ...]:
    """Return the folders with the fast tests of a module; none if it carries no rules."""
    name = module.as_posix()
    suites = [folders for prefix, folders in SUITES.items() if name.startswith(prefix)]
    return suites[0] if suites and not name.startswith(WITHOUT_RULES) else ()


def all_mutations() -> list[Mutation]:
    """Return all mutations of all modules that carry rules."""
    paths = sorted(
        path.relative_to(ROOT) for part in ("domain", "activities", "api") for path in (ROOT / part).rglob("*.py")
    )
    modules = [path for path in paths if suite_of(path)]
    return [mutation for path in modules for mutation in mutations_of(ROOT, path)]


def tests_of(module: Path, copy: Path) -> Iterator[list[str]]:
    """Yield the test files that are named after the module, then those that name it, then the others of its part."""
    name = re.compile(rf"\b{module.stem}\b")
    found = [path for folder in suite_of(module) for path in sorted((copy / folder).rglob("test_*.py"))]
    rest = list(dict.fromkeys(path.relative_to(copy) for path in found))
    for is_next in (
        lambda path: module.stem in path.stem,
        lambda path: name.search((copy / path).read_text()),
        lambda _: True,
    ):
        paths = [path for path in rest if is_next(path)]
        rest = [path for path in rest if path not in paths]
        if paths:
            yield [path.as_posix() for path in paths]


def noticed_by(mutation: Mutation, copy: Path) -> str | None:
    """Return the test that fails, or hangs, with the mutation; None if there is none."""
    path = copy / mutation.path
    source = path.read_bytes()
    mutated = mutation.apply(source)
    try:
        for tests in tests_of(mutation.path, copy):
            unreliable: list[str] = []
            path.write_bytes(mutated)
            while failed := first_failure(tests, copy, unreliable):
                # A test that fails now and then, or in the copy anyway, has noticed nothing.
                if "::" not in failed or (
                    first_failure([failed], copy) and _passes_without(path, source, failed, copy)
                ):
                    return failed
                print(f"unreliable: {failed}", flush=True)
                unreliable.append(failed)
                path.write_bytes(mutated)
    finally:
        path.write_bytes(source)
    return None


def _passes_without(path: Path, source: bytes, test: str, copy: Path) -> bool:
    path.write_bytes(source)
    return first_failure([test], copy) is None


def first_failure(tests: Sequence[str], copy: Path, without: Sequence[str] = ()) -> str | None:
    """Return the first test that fails or hangs; what happened instead if the tests could not run; None if all pass."""
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT}"]
    command = [sys.executable, "-m", "pytest", *options, *(f"--deselect={test}" for test in without), *tests]
    # Without bytecode files: two versions of a file that are written within a second would be taken for one.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "the whole process hangs"
    if result.returncode in {0, 5}:  # 5: every test was left out
        return None
    failed = _FAILED.search(result.stdout)
    return failed[1] if failed else "the tests do not start"


def diff_of(mutation: Mutation) -> str:
    """Return the mutation as a diff."""
    source = (ROOT / mutation.path).read_bytes()
    before, after = (text.decode().splitlines() for text in (source, mutation.apply(source)))
    return "\n".join(list(difflib.unified_diff(before, after, lineterm="", n=0))[3:])


def main() -> None:
    """Draw, try and print."""
    count, seed = int(os.environ.get("MUTANTS", "60")), os.environ.get("SEED", "1")
    every = all_mutations()
    sample = random.Random(seed).sample(every, min(count, len(every)))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(WORKERS):
            copies.put(_copy_to(Path(folder, str(number))))

        def attempt(mutation: Mutation) -> str | None:
            copy = copies.get()
            try:
                return noticed_by(mutation, copy)
            finally:
                copies.put(copy)

        survivors = 0
        attempts = {pool.submit(attempt, mutation): mutation for mutation in sample}
        for number, done in enumerate(as_completed(attempts), 1):
            mutation, test = attempts[done], done.result()
            survivors += test is None
            result = f"noticed by {test}" if test else f"SURVIVED\n{diff_of(mutation)}"
            print(f"{number} of {len(sample)}: {mutation.path}:{mutation.line}: {result}", flush=True)
    print(f"{survivors} of {len(sample)} survived (of {len(every)} possible, SEED={seed})")


def _copy_to(folder: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", ".venv", ".data", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, folder, ignore=ignored))


if __name__ == "__main__":
    main()
