"""Shows the logs of the processes that run for a test if that test fails: their folder is deleted soon after."""

from collections.abc import Iterator
from pathlib import Path

LINES = 25
FOLDERS: set[Path] = set()  # the log folders of the stacks that are running


def tails() -> Iterator[tuple[str, str]]:
    """The title and the last lines of every log."""
    for path in sorted(path for folder in FOLDERS for path in folder.glob("*.log")):
        yield f"end of {path}", "\n".join(path.read_text(errors="replace").splitlines()[-LINES:])
