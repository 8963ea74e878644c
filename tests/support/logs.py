"""What the processes of a test have logged, shown with a test that fails: later their folders may be gone."""

from collections.abc import Iterator
from pathlib import Path

LINES = 25
FOLDERS: set[Path] = set()  # of the stacks that run now


def ends() -> Iterator[tuple[str, str]]:
    """The name and the last lines of every log."""
    for path in sorted(path for folder in FOLDERS for path in folder.glob("*.log")):
        yield f"end of {path}", "\n".join(path.read_text(errors="replace").splitlines()[-LINES:])
