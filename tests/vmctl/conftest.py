"""A real stack, and the command with a configuration of its own."""

import io
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.meta.files import ROOT
from tests.support.stack import Stack
from tests.support.users import PASSWORD, add_account
from vmctl.cli import main

NO_SERVICE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Done:
    """What a run has printed."""

    stdout: str
    stderr: str


@dataclass
class Command:
    """Runs the command as a user in a shell does."""

    environment: dict[str, str]

    def run(self, *arguments: str, code: int = 0, input: str = "") -> Done:
        """Run it, and expect an exit code. It runs in this process, because a new one takes half a second to begin."""
        out, error = io.StringIO(), io.StringIO()
        given_input = io.TextIOWrapper(io.BytesIO(input.encode()), newline="\n")  # as Python opens its own
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.multiple(
                sys,
                argv=["vmctl", *arguments],
                stdin=given_input,
                stdout=out,
                stderr=error,
            ),
        ):
            try:
                main.run()
            except SystemExit as end:
                given = end.code
            else:
                given = 0
        assert given == code, f"{arguments}: {given}\n{out.getvalue()}\n{error.getvalue()}"
        return Done(out.getvalue(), error.getvalue())

    def json(self, *arguments: str) -> Any:
        """The result as data. It is all that the command may write to its output."""
        return json.loads(self.run(*arguments, "-o", "json").stdout)

    def names(self, *arguments: str) -> list[str]:
        """The names of a list."""
        return sorted(item["name"] for item in self.json(*arguments))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program `vmctl` of this checkout; .venv/bin may have that of another one."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "vmctl"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m vmctl "$@"\n'
    )
    program.chmod(0o755)
    return folder


@pytest.fixture
def alone(programs: Path, tmp_path: Path) -> Command:
    """The command of somebody who has not logged in, and without a service. Nothing listens on its port."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VMCTL_")}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path), "VMCTL_URL": NO_SERVICE}
    return Command(environment | {"PATH": f"{programs}:{os.environ['PATH']}", "TERM": "xterm-256color"})


@pytest.fixture
def stranger(stack: Stack, alone: Command) -> Command:
    """The command of somebody who has not logged in."""
    return Command(alone.environment | {"VMCTL_URL": stack.url})


@pytest.fixture
async def vmctl(stack: Stack, stranger: Command) -> Command:
    """The command of a new user, who has logged in."""
    stranger.run("login", "-u", await add_account(stack), "--password-stdin", input=f"{PASSWORD}\n")
    return stranger
