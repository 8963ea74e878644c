"""Run the commands of docs/vmctl.md and write what they print: `python -m tests.vmctl.transcript`.

It needs `make up`, and an account `alice` that does not exist yet. VMCTL_URL is the service, if it is not on port 8000.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.meta.files import ROOT
from vmctl.cli.config import DEFAULT_URL

DOCUMENT = ROOT / "docs/vmctl.md"
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = "\x1e"  # stands before what each command prints
STEPS = re.compile(
    r"^.*: (?:queued|running|\w+), \d+ %$\n?", re.MULTILINE
)  # which of them one sees is a matter of time
PATH_LINE = "export PATH"  # the commands run in an environment that has the program


def commands(document: str) -> list[str]:
    """The commands of the document, in order."""
    lines = "\n".join(BLOCK.findall(document)).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ") and PATH_LINE not in line]


def run(document: str, environment: Mapping[str, str], home: Path) -> list[str]:
    """Run the commands in one shell, and return what each has printed."""
    (home / ".ssh").mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / ".ssh/id_ed25519"], check=True)
    script = "exec 2>&1\n" + "\n".join(f"printf '{MARK}'\n{command}" for command in commands(document))
    private = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    done = subprocess.run(
        ["bash", "-c", script], env={**environment, **private}, cwd=home, capture_output=True, text=True, check=False
    )
    return [STEPS.sub("", part) for part in done.stdout.split(MARK)[1:]]


def printed(document: str) -> list[str]:
    """What the commands have printed according to the document."""
    parts = re.split(r"^\$ .*\n", "".join(BLOCK.findall(document)), flags=re.MULTILINE)
    return parts[2:]  # nothing stands before the first command, and the first is not run


def written(document: str, outputs: Iterator[str]) -> str:
    """The document with these outputs."""

    def block(found: re.Match[str]) -> str:
        lines = [line for line in found[1].splitlines(keepends=True) if line.startswith("$ ")]
        return "```console\n" + "".join(line + ("" if PATH_LINE in line else next(outputs)) for line in lines) + "```"

    return BLOCK.sub(block, document)


def main() -> None:
    """Write the document anew."""
    with tempfile.TemporaryDirectory() as home:
        outputs = run(DOCUMENT.read_text(), os.environ, Path(home))
    url = os.environ.get("VMCTL_URL", DEFAULT_URL)
    DOCUMENT.write_text(written(DOCUMENT.read_text(), (output.replace(url, DEFAULT_URL) for output in outputs)))


if __name__ == "__main__":
    main()
