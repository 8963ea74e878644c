"""The examples of docs/vmctl.md run as they are written, and print what stands there."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from tests.meta.files import ROOT
from tests.support.stack import Stack
from tests.support.users import PASSWORD
from tests.vmctl import transcript
from tests.vmctl.conftest import Command

ALTERABLE = [
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"\b10\.\d+\.\d+\.\d+\b", "IP"),
    (r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC"),
    (r"\b\d+[smhd]\b", "AGE"),
    (r"after [\d.]+ s", "after SOME s"),
    (r"http://\S+:\d+", "URL"),
    (r"request \S+\)", "request ID)"),
    (r" +", " "),
]


def plain(output: str) -> list[str]:
    """The lines of an output without what differs from run to run. Things that were made together come in any order."""
    for pattern, word in ALTERABLE:
        output = re.sub(pattern, word, output)
    return sorted(line.strip() for line in output.splitlines())


def test_the_transcript_is_what_the_commands_print(stranger: Command, tmp_path: Path) -> None:
    names = {person: f"{person}-{uuid4().hex[:8]}" for person in ("alice", "grace")}
    document = transcript.DOCUMENT.read_text()
    outputs = transcript.run(_replaced(document, names), stranger.environment, tmp_path)
    expected = transcript.printed(document)
    known_names = {name: person for person, name in names.items()}
    assert len(outputs) == len(expected)
    for command, output, known in zip(transcript.commands(document), outputs, expected, strict=True):
        assert plain(_replaced(output, known_names)) == plain(known), command


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for word, other in words.items():
        text = text.replace(word, other)
    return text


def test_the_examples_in_python_are_typed_and_run(vmctl: Command, stack: Stack, tmp_path: Path) -> None:
    name = vmctl.json("whoami")["username"]
    programs = list[Path]()
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", transcript.DOCUMENT.read_text(), re.DOTALL)):
        programs.append(tmp_path / f"example_{number}.py")
        own = example.replace("http://127.0.0.1:8000", stack.url).replace('"alice"', f'"{name}"')
        programs[-1].write_text(own)
    environment = vmctl.environment | {"PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    check: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *programs]
    checked = subprocess.run(check, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    for program in programs:
        done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert PASSWORD in transcript.DOCUMENT.read_text()
